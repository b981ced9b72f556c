//! What goes wrong, and when: drawn from the seed before the run begins.

use std::fmt;
use std::ops::Range;

use clap::ValueEnum;

use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Google is down for 20 minutes: refused, silent or 503
    GoogleOutage,
    /// The API server is down for 5 minutes: refused, silent or 503
    ApiOutage,
    /// Once an hour the leader is stopped, killed or cut off from the API server
    LeaderLoss,
    /// The machines' clock is set wrong, and right again later
    ClockStep,
    /// The machines sleep: the wall clock goes on, timers stand still
    Sleep,
    /// Google answers nine of ten requests with 429
    QuotaStorm,
    /// Every identity of one tenant fails
    FailingTenant,
    /// All watches end
    WatchCut,
    /// The API server and its watches are slow
    SlowApi,
    /// Somebody else writes bindings and the operator's Secrets just before the operator does
    Conflicts,
    /// All watches end, and what they would resume from is compacted away: 410
    Gone,
}

/// How a server is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// No connection.
    Refused,
    /// No answer; the API server resets what hangs when it is back.
    Silent,
    /// An answer of 503.
    Unavailable,
}

/// How a replica is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// SIGTERM; another one comes.
    Stopped,
    /// SIGKILL, or its machine is gone; another one comes.
    Killed,
    /// Nothing of it reaches the API server for a while.
    CutOff,
}

/// How the identities of one tenant fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// 403.
    Denied,
    /// 404.
    Missing,
    /// 503.
    Unavailable,
    /// No answer.
    Silent,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Google is down.
    Google(Down),
    /// The API server is down.
    Api(Down),
    /// The leader is lost.
    Leader(Loss),
    /// The machines' clock is ahead by so many seconds.
    Clock(i64),
    /// The machines sleep.
    Sleep,
    /// 429.
    Storm,
    /// Watches end.
    Cut,
    /// An answer takes up to so many milliseconds, a watch's word ten times that.
    Slow(u64),
    /// So many of a hundred writes meet another version.
    Conflicts(u64),
    /// Watches end and can't be resumed.
    Gone,
}

/// A fault with its time, in seconds since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What goes wrong.
    pub fault: Fault,
    /// From when until when. What happens at a moment ends in the second in which it begins.
    pub when: Range<u64>,
}

/// Everything that goes wrong in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// In the order of their beginnings.
    pub planned: Vec<Planned>,
    /// How the identities of the failing tenant fail, where there is one.
    pub denial: Option<Denial>,
}

impl Schedule {
    /// Draws what goes wrong in a run of so many seconds.
    #[must_use]
    pub fn draw(seed: u64, kinds: &[Kind], seconds: u64) -> Self {
        let mut planned = Vec::new();
        for kind in kinds {
            let mut random = Random::of(seed, kind.name());
            // At least once in a run, about as often as the day is long.
            let mut from = random.within(0..kind.every());
            while from < seconds {
                if let Some((fault, lasts)) = kind.draw(&mut random) {
                    let until = from.saturating_add(lasts).min(seconds);
                    planned.push(Planned { fault, when: from..until });
                }
                from = from + kind.every() / 2 + random.within(0..kind.every());
            }
        }
        planned.sort_by_key(|planned: &Planned| planned.when.start);
        let mut random = Random::of(seed, "denial");
        let denial = kinds.contains(&Kind::FailingTenant).then(|| random.one_of(&DENIALS));
        Self { planned, denial }
    }

    /// What goes wrong at that second, as `which` finds it.
    pub fn now<T>(&self, second: u64, which: impl Fn(Fault) -> Option<T>) -> Option<T> {
        let begun = self.planned.iter().take_while(|planned| planned.when.start <= second);
        begun.filter(|planned| planned.when.contains(&second)).find_map(|planned| which(planned.fault))
    }

    /// The times of the faults that `which` names.
    pub fn times<'s>(&'s self, which: impl Fn(Fault) -> bool + 's) -> impl Iterator<Item = &'s Planned> {
        self.planned.iter().filter(move |planned| which(planned.fault))
    }
}

impl Kind {
    /// As it is written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GoogleOutage => "google-outage",
            Self::ApiOutage => "api-outage",
            Self::LeaderLoss => "leader-loss",
            Self::ClockStep => "clock-step",
            Self::Sleep => "sleep",
            Self::QuotaStorm => "quota-storm",
            Self::FailingTenant => "failing-tenant",
            Self::WatchCut => "watch-cut",
            Self::SlowApi => "slow-api",
            Self::Conflicts => "conflicts",
            Self::Gone => "gone",
        }
    }

    /// Seconds from one to the next, more or less.
    fn every(self) -> u64 {
        match self {
            Self::LeaderLoss | Self::WatchCut => HOUR,
            Self::ApiOutage | Self::QuotaStorm | Self::SlowApi | Self::Conflicts | Self::Gone => 5 * HOUR,
            Self::GoogleOutage | Self::ClockStep | Self::FailingTenant => 6 * HOUR,
            Self::Sleep => 10 * HOUR,
        }
    }

    /// One such fault, and how many seconds it lasts.
    fn draw(self, random: &mut Random) -> Option<(Fault, u64)> {
        Some(match self {
            Self::GoogleOutage => (Fault::Google(random.one_of(&DOWN)), 20 * MINUTE),
            Self::ApiOutage => (Fault::Api(random.one_of(&DOWN)), 5 * MINUTE),
            Self::LeaderLoss => {
                let loss = random.one_of(&[Loss::Stopped, Loss::Killed, Loss::CutOff]);
                (Fault::Leader(loss), random.within(20..3 * MINUTE))
            }
            Self::ClockStep => {
                // Behind by more than a minute no token can be verified, for all of them come from the future.
                let ahead = random.one_of(&[-1800, -55, -20, 30, 300, 600]);
                (Fault::Clock(ahead), random.within(10 * MINUTE..HOUR))
            }
            Self::Sleep => (Fault::Sleep, random.within(5 * MINUTE..100 * MINUTE)),
            Self::QuotaStorm => (Fault::Storm, random.within(2 * MINUTE..15 * MINUTE)),
            Self::FailingTenant => return None,
            Self::WatchCut => (Fault::Cut, 1),
            Self::SlowApi => {
                (Fault::Slow(random.one_of(&[300, 800, 4000])), random.within(MINUTE..20 * MINUTE))
            }
            Self::Conflicts => (Fault::Conflicts(random.one_of(&[10, 50])), random.within(5 * MINUTE..HOUR)),
            Self::Gone => (Fault::Gone, 1),
        })
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.when;
        let clock =
            |second: u64| format!("{:02}:{:02}:{:02}", second / HOUR, second / MINUTE % 60, second % 60);
        write!(f, "{} to {} {:?}", clock(start), clock(end), self.fault)
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DOWN: [Down; 3] = [Down::Refused, Down::Silent, Down::Unavailable];
const DENIALS: [Denial; 4] = [Denial::Denied, Denial::Missing, Denial::Unavailable, Denial::Silent];

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_seed_draws_the_same_day_again_and_another_one_another_day() {
        let day = |seed| Schedule::draw(seed, Kind::value_variants(), DAY);
        assert_eq!(day(1), day(1));
        assert_ne!(day(1), day(2));
        assert_eq!(Schedule::draw(1, &[], DAY), Schedule::default());
    }

    #[test]
    fn every_kind_happens_in_every_day_and_ends_in_it() {
        for seed in 0..50 {
            for kind in Kind::value_variants().iter().filter(|kind| **kind != Kind::FailingTenant) {
                let planned = Schedule::draw(seed, &[*kind], DAY).planned;
                assert!(!planned.is_empty(), "{seed} {kind:?}");
                assert!(planned.iter().all(|planned| planned.when.end <= DAY), "{seed} {kind:?}");
            }
        }
        let losses = Schedule::draw(3, &[Kind::LeaderLoss], DAY).planned.len();
        assert!((15..=36).contains(&losses), "about once an hour: {losses}");
    }

    #[test]
    fn one_kind_changes_nothing_of_the_others() {
        let alone = Schedule::draw(5, &[Kind::GoogleOutage], DAY).planned;
        let all = Schedule::draw(5, Kind::value_variants(), DAY);
        let outages: Vec<_> = all.times(|fault| matches!(fault, Fault::Google(_))).cloned().collect();
        assert_eq!(outages, alone);
    }

    #[test]
    fn what_goes_wrong_is_found_by_the_time() {
        let planned = |fault, when| Planned { fault, when };
        let schedule = Schedule {
            planned: vec![planned(Fault::Slow(5), 0..100), planned(Fault::Storm, 10..20)],
            denial: None,
        };
        let storm = |second| schedule.now(second, |fault| (fault == Fault::Storm).then_some(())).is_some();
        assert_eq!([9, 10, 19, 20].map(storm), [false, true, true, false]);
        assert_eq!(schedule.planned[1].to_string(), "00:00:10 to 00:00:20 Storm");
    }
}
