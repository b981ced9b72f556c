//! What is reported: figures of each size, beside the floor's.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::figures::{Ratio, median};
use super::super::report::{Judged, Target, judgement, megabytes};
use super::phase::{Cpu, Phase};
use super::run::Measured;
use super::survey::{Best, Rate, seconds};
use super::writes::{Object, WAYS};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// How many processors all programs share.
    pub(super) processors: usize,
    /// Whether the programs are as they are released. Else the figures mean nothing.
    pub(super) optimized: bool,
    pub(super) rounds: u32,
    /// How fast the API server answers each kind of write.
    pub(super) writes: Vec<Rate>,
    /// What the floor is made of.
    pub(super) floor: Best,
    pub(super) sizes: Vec<Size>,
    pub(super) targets: Vec<Target>,
}

/// One size of fleet.
#[derive(Debug, Serialize)]
pub(super) struct Size {
    pub(super) bindings: u32,
    pub(super) tokens: u32,
    /// Of each round, in their order.
    pub(super) floor_seconds: Vec<f64>,
    pub(super) start_seconds: Vec<f64>,
    /// How many times as long as the floor's the start took: median of the rounds', the least and the most.
    pub(super) of_floor: f64,
    pub(super) of_floor_least: f64,
    pub(super) of_floor_most: f64,
    /// Processor time of the floor's API server and etcd in the last round; its own client's is not counted.
    pub(super) floor_cpu: Cpu,
    /// How many times as much of it the start took. On a busy machine this says more than seconds do.
    pub(super) cpu_of_floor: f64,
    /// The start of the last round.
    pub(super) start: Phase,
    pub(super) refresh: Phase,
    pub(super) lag: Lag,
    pub(super) restart: Phase,
    pub(super) steady: Phase,
    /// The most memory that the controller ever had resident.
    pub(super) memory_peak_bytes: u64,
}

/// How long after the time promised in `nextRefreshTime` the status told of the next token.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Lag {
    pub(super) worst_seconds: f64,
    pub(super) mean_seconds: f64,
    /// Bindings whose token had expired by then.
    pub(super) expired: usize,
}

impl Size {
    /// From what was measured of it.
    pub(super) fn of(measured: Measured) -> Self {
        let Measured { fleet, floors, starts, wave, refresh, restart, steady } = measured;
        let ratios = starts.iter().zip(&floors).map(|(start, floor)| start.seconds / floor.seconds);
        let of_floor = Ratio::of(ratios.collect());
        let cpu_ratios =
            starts.iter().zip(&floors).map(|(start, floor)| start.cpu.served() / floor.cpu.served());
        let refreshed = u32::try_from(wave.refreshed).map_or(f64::NAN, f64::from);
        let last = starts.last().cloned().unwrap_or_default();
        let peaks = starts.iter().chain([&refresh, &restart, &steady]).map(|phase| phase.memory_peak_bytes);
        Self {
            bindings: fleet.0,
            tokens: fleet.tokens(),
            of_floor: of_floor.median,
            of_floor_least: of_floor.least,
            of_floor_most: of_floor.most,
            floor_cpu: floors.last().map_or_else(Cpu::default, |floor| floor.cpu),
            cpu_of_floor: median(cpu_ratios.collect()),
            memory_peak_bytes: peaks.max().unwrap_or_default(),
            floor_seconds: floors.iter().map(|floor| floor.seconds).collect(),
            start_seconds: starts.iter().map(|start| start.seconds).collect(),
            start: last,
            lag: Lag {
                worst_seconds: wave.worst_lag.as_secs_f64(),
                mean_seconds: wave.total_lag.as_secs_f64() / refreshed,
                expired: wave.expired,
            },
            refresh,
            restart,
            steady,
        }
    }

    /// The middle one of the rounds' starts.
    pub(super) fn seconds(&self) -> f64 {
        median(self.start_seconds.clone())
    }

    pub(super) fn writes_per_binding(&self, phase: &Phase) -> f64 {
        ratio(phase.writes, self.bindings)
    }

    pub(super) fn mints_per_token(&self, phase: &Phase) -> f64 {
        ratio(phase.mints, self.tokens)
    }
}

impl Judged for Report {
    fn table(&self) -> String {
        let mut text = self.writes_table();
        for size in &self.sizes {
            text.push('\n');
            text.push_str(&size.table());
        }
        text.push('\n');
        text + &judgement(&self.targets, self.optimized)
    }

    fn targets(&self) -> &[Target] {
        &self.targets
    }
}

impl Report {
    fn writes_table(&self) -> String {
        let mut numbers: Vec<usize> = self.writes.iter().map(|rate| rate.at_once).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut text = format!("{:<42}", "writes/s (CPU ms), by how many at once");
        for number in &numbers {
            let _ = write!(text, "{number:>14}");
        }
        text.push('\n');
        let of = |way, at_once| {
            self.writes.iter().find(|rate| (rate.way, rate.at_once) == (way, at_once)).copied()
        };
        for way in WAYS {
            let _ = write!(text, "{:<42}", way.label());
            for rate in numbers.iter().filter_map(|at_once| of(way, *at_once)) {
                let _ = write!(text, "{:>7.0} ({:.2})", rate.writes_per_second, rate.cpu_millis);
            }
            text.push('\n');
        }
        let best = self.floor;
        let _ = writeln!(text, "\nThe floor, with {} at once:", best.at_once);
        for (object, fastest) in [
            (Object::NewSecret, best.new_secret),
            (Object::Secret, best.secret),
            (Object::Status, best.status),
        ] {
            // The first of each object is the product's way.
            let used = WAYS.iter().find(|way| way.object == object).copied().unwrap_or(fastest);
            let ratio = seconds(&self.writes, used) / seconds(&self.writes, fastest);
            let _ = writeln!(
                text,
                "  {}; the product: {}; {ratio:.2} times as fast",
                fastest.label(),
                used.label()
            );
        }
        text
    }
}

impl Size {
    fn table(&self) -> String {
        let mut text = format!("{} bindings, {} different tokens\n", self.bindings, self.tokens);
        let _ = writeln!(
            text,
            "start: {:.2} s, the floor {:.2} s: {:.2} times as long ({:.2} to {:.2})",
            self.seconds(),
            median(self.floor_seconds.clone()),
            self.of_floor,
            self.of_floor_least,
            self.of_floor_most,
        );
        let Cpu { api_server, etcd, .. } = self.floor_cpu;
        let _ = writeln!(
            text,
            "CPU of API server and etcd: {:.2} times the floor's, which was {api_server:.1} s and {etcd:.1} s",
            self.cpu_of_floor
        );
        let _ = writeln!(
            text,
            "refresh: worst lag {:.2} s, mean {:.3} s; {} had expired",
            self.lag.worst_seconds, self.lag.mean_seconds, self.lag.expired
        );
        let _ = writeln!(text, "{HEAD}");
        for (name, phase) in self.phases() {
            let Cpu { controller, api_server, etcd } = phase.cpu;
            let _ = writeln!(
                text,
                "{name:>8} {:>8.2} {controller:>11.2} {api_server:>7.2} {etcd:>6.2} {:>8.1} {:>8.1} {:>15.3} {:>12.3}",
                phase.seconds,
                megabytes(phase.memory_bytes),
                megabytes(phase.memory_peak_bytes),
                self.writes_per_binding(phase),
                self.mints_per_token(phase),
            );
        }
        for (name, phase) in self.phases() {
            let _ = write!(text, "{name:>8}:");
            for line in &phase.requests {
                let _ = write!(text, " {} {} {} {};", line.count, line.verb, line.resource, line.code);
            }
            text.push('\n');
        }
        text
    }

    fn phases(&self) -> [(&'static str, &Phase); 4] {
        [
            ("start", &self.start),
            ("refresh", &self.refresh),
            ("restart", &self.restart),
            ("steady", &self.steady),
        ]
    }
}

/// How many there are for each.
fn ratio(count: u64, of: u32) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from) / f64::from(of)
}

const HEAD: &str =
    "          seconds   CPU s: us  API s.   etcd   MB now  at peak  writes/binding  mints/token";
