//! What is reported: figures of each server, and what they are to reach.

use std::fmt::Write as _;

use anyhow::ensure;
use serde::Serialize;

use super::figures::{self, Ratio};
use super::load::{Protocol, Round};
use super::usage::Usage;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// How many processors client and servers share.
    pub(super) processors: usize,
    /// Whether the programs are as they are released. Else the figures mean nothing.
    pub(super) optimized: bool,
    pub(super) rounds: u32,
    pub(super) seconds_per_round: f64,
    pub(super) protocol: Protocol,
    pub(super) body_bytes: usize,
    pub(super) servers: Vec<ServerReport>,
    pub(super) targets: Vec<Target>,
}

/// What was measured of one server.
#[derive(Debug, Serialize)]
pub(super) struct ServerReport {
    pub(super) name: String,
    /// In its cache; none for the floor.
    pub(super) bindings: Option<u32>,
    /// Resident at the end, and the most there ever was.
    pub(super) memory_bytes: u64,
    pub(super) memory_peak_bytes: u64,
    pub(super) loads: Vec<LoadReport>,
}

/// What was measured of one server under one load.
#[derive(Debug, Serialize)]
pub(super) struct LoadReport {
    pub(super) clients: u32,
    pub(super) requests: usize,
    pub(super) requests_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) cpu_ms_per_request: f64,
    /// As multiples of the floor's.
    pub(super) requests_per_second_of_floor: Ratio,
    pub(super) cpu_per_request_of_floor: Ratio,
}

/// Something to be reached.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) what: String,
    pub(super) goal: String,
    /// Where it is a ratio, the median.
    pub(super) value: f64,
    pub(super) met: bool,
}

/// One server's rounds, by load.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) bindings: Option<u32>,
    pub(super) usage: Usage,
    pub(super) rounds: Vec<Vec<Round>>,
}

impl Measured {
    /// The figures, beside those of the floor.
    pub(super) fn report(&self, clients: &[u32], floor: &Self) -> ServerReport {
        let loads = clients.iter().zip(&self.rounds).zip(&floor.rounds);
        let loads = loads.map(|((clients, rounds), floor)| {
            let [p50_ms, p99_ms] = figures::quantiles(rounds, [0.5, 0.99]);
            LoadReport {
                clients: *clients,
                requests: rounds.iter().map(|round| round.latencies.len()).sum(),
                requests_per_second: figures::requests_per_second(rounds),
                p50_ms,
                p99_ms,
                cpu_ms_per_request: figures::cpu_per_request(rounds),
                requests_per_second_of_floor: figures::rate_ratio(rounds, floor),
                cpu_per_request_of_floor: figures::cpu_ratio(rounds, floor),
            }
        });
        ServerReport {
            name: self.name.clone(),
            bindings: self.bindings,
            memory_bytes: self.usage.resident,
            memory_peak_bytes: self.usage.peak,
            loads: loads.collect(),
        }
    }
}

/// What the webhook with `many` bindings is to reach, beside the floor and itself with `few`.
pub(super) fn targets(clients: &[u32], floor: &Measured, few: &Measured, many: &Measured) -> Vec<Target> {
    let mut targets = Vec::new();
    for (index, clients) in clients.iter().enumerate() {
        let rounds = |of: &Measured| of.rounds[index].clone();
        let (floor, few, many) = (rounds(floor), rounds(few), rounds(many));
        let with = if *clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        targets.push(at_least(
            RATE,
            format!("requests/s of the floor's, {with}"),
            figures::rate_ratio(&many, &floor).median,
        ));
        targets.push(at_most(
            CPU,
            format!("CPU per request of the floor's, {with}"),
            figures::cpu_ratio(&many, &floor).median,
        ));
        targets.push(at_least(
            SCALE,
            format!("requests/s with many bindings of those with few, {with}"),
            figures::rate_ratio(&many, &few).median,
        ));
    }
    let peak = megabytes(many.usage.peak);
    targets.push(at_most(MEMORY, "MB of memory at the peak, with many bindings".to_owned(), peak));
    targets
}

fn at_least(goal: f64, what: String, value: f64) -> Target {
    Target { what, goal: format!("at least {goal}"), value, met: value >= goal }
}

/// Up to `goal`, inclusive.
pub(super) fn at_most(goal: f64, what: String, value: f64) -> Target {
    Target { what, goal: format!("at most {goal}"), value, met: value <= goal }
}

/// No more and no less.
pub(super) fn exactly(goal: f64, what: String, value: f64) -> Target {
    Target { what, goal: format!("exactly {goal}"), value, met: (value - goal).abs() < f64::EPSILON }
}

impl Judged for Report {
    fn table(&self) -> String {
        let mut text = format!("Over {}\n", self.protocol);
        for server in &self.servers {
            let bindings = server.bindings.map(|count| format!(", {count} bindings")).unwrap_or_default();
            let (now, peak) = (megabytes(server.memory_bytes), megabytes(server.memory_peak_bytes));
            // Writing into a String does not fail.
            let _ =
                writeln!(text, "{}{bindings}: {now:.1} MB of memory, {peak:.1} MB at the peak", server.name);
            let _ = writeln!(text, "{HEAD}");
            for load in &server.loads {
                let _ = writeln!(
                    text,
                    "{:>9} {:>12.0} {:>8.3} {:>8.3} {:>16.4} {:>20} {:>18}",
                    load.clients,
                    load.requests_per_second,
                    load.p50_ms,
                    load.p99_ms,
                    load.cpu_ms_per_request,
                    spread(load.requests_per_second_of_floor),
                    spread(load.cpu_per_request_of_floor),
                );
            }
            text.push('\n');
        }
        text + &judgement(&self.targets, self.optimized)
    }

    fn targets(&self) -> &[Target] {
        &self.targets
    }
}

/// What a benchmark reports.
pub(super) trait Judged: Serialize {
    /// For people.
    fn table(&self) -> String;

    fn targets(&self) -> &[Target];
}

/// Prints a report: as a table, or as one JSON document. An error where a target is missed, if it is to `assert` that none is.
pub(super) fn tell(report: &impl Judged, json: bool, assert: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", report.table());
    }
    let missed = report.targets().iter().filter(|target| !target.met).map(|target| target.what.as_str());
    let missed: Vec<_> = missed.collect();
    ensure!(!assert || missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

/// The end of every table: a line for each target, and whether the figures mean anything.
pub(super) fn judgement(targets: &[Target], optimized: bool) -> String {
    let mut text = String::new();
    for Target { what, goal, value, met } in targets {
        let met = if *met { "met   " } else { "MISSED" };
        let _ = writeln!(text, "{met}  {value:>8.2}  {goal:<13}  {what}");
    }
    if !optimized {
        text.push_str("\nThe programs are not as they are released: these figures mean nothing.\n");
    }
    text
}

fn spread(Ratio { median, least, most }: Ratio) -> String {
    format!("{median:.2} ({least:.2}–{most:.2})")
}

#[expect(clippy::cast_precision_loss)]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

const HEAD: &str =
    "  clients   requests/s   p50 ms   p99 ms   CPU ms/request   of floor: requests/s                CPU";

/// Of the floor's requests in a second.
const RATE: f64 = 0.75;
/// Of the floor's processor time for a request.
const CPU: f64 = 1.5;
/// Of the requests in a second with few bindings: not slower, but for noise.
const SCALE: f64 = 0.95;
/// Megabytes.
const MEMORY: f64 = 20.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn measured(requests: usize, cpu: u64, peak: u64) -> Measured {
        let round = Round {
            elapsed: Duration::from_secs(1),
            cpu: Duration::from_millis(cpu),
            latencies: vec![1_000_000; requests],
        };
        Measured {
            name: "x".to_owned(),
            bindings: None,
            usage: Usage { cpu: Duration::ZERO, resident: 1, peak },
            rounds: vec![vec![round]],
        }
    }

    fn met(floor: &Measured, few: &Measured, many: &Measured) -> Vec<bool> {
        targets(&[8], floor, few, many).iter().map(|target| target.met).collect()
    }

    #[test]
    fn each_target_is_met_up_to_its_goal_and_missed_beyond() {
        let (floor, few) = (measured(1000, 1000, 1), measured(760, 1000, 1));
        assert_eq!(met(&floor, &few, &measured(750, 1125, 20_000_000)), [true, true, true, true]);
        assert_eq!(met(&floor, &few, &measured(749, 1125, 20_000_000)), [false, false, true, true]);
        assert_eq!(
            met(&floor, &measured(800, 1, 1), &measured(750, 1000, 20_000_001)),
            [true, true, false, false]
        );
    }
}
