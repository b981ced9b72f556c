//! What a run may cost: tokens, writes, and how much of it at once.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::availability::Cause;
use crate::google::LIFE;
use crate::ledger::{Account, Ledger, Rule};
use crate::population::{Binding, Identity};
use crate::world::World;

/// A number, and the least that it could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// The number.
    pub number: u64,
    /// The least.
    pub minimum: u64,
}

/// What it has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Different tokens that are wanted.
    pub different: u64,
    /// Tokens that Google signed, but for those that nobody could use, since the machines' clock was far behind.
    pub mints: Figure,
    /// Writes of Secrets.
    pub secret_writes: Figure,
    /// Writes of bindings' statuses.
    pub status_writes: Figure,
}

/// Notes in `world` where more was asked for than is needed.
pub fn judge(world: &World) {
    let mut ledger = world.ledger();
    let costs = Costs::of(world, &ledger);
    // In a short run chance weighs too much: a token more is little where ten are needed.
    let is_long = world.until >= LONG;
    for (rule, complaints) in [
        (Rule::Mints, mints(&costs, &ledger, is_long)),
        (Rule::Writes, if is_long { writes(&costs, &ledger) } else { Vec::new() }),
        (Rule::Rate, rates(world, &ledger)),
    ] {
        if !complaints.is_empty() {
            ledger.broken_by_all(rule, || complaints.join("; "));
        }
    }
}

fn mints(costs: &Costs, ledger: &Ledger, is_long: bool) -> Vec<String> {
    // Each is tried again after a second, and after two minutes in the end.
    let most = costs.different * (10 + ledger.availability.seconds_of(Cause::Clock) / 100);
    let unusable = Some(ledger.counts.unusable).filter(|unusable| *unusable > most);
    let unusable =
        unusable.map(|number| format!("{number} mints while the clock was wrong; {most} are allowed"));
    let wrong = costs.mints.above("mints", MINTS).filter(|_| is_long);
    wrong.into_iter().chain(unusable).collect()
}

fn writes(costs: &Costs, ledger: &Ledger) -> Vec<String> {
    let Costs { secret_writes, status_writes, .. } = *costs;
    let sent = |label| ledger.counts.api_requests.get(label).copied().unwrap_or_default();
    let secrets = Figure { number: sent("create secrets") + sent("update secrets"), ..secret_writes };
    let statuses = Figure { number: sent("update idtokenbindings/status"), ..status_writes };
    let events = Figure { number: ledger.counts.events, ..secret_writes };
    let complaints = [
        secret_writes.above("writes of Secrets", SECRET_WRITES),
        secrets.above("writes of Secrets sent", SECRET_WRITES_SENT),
        status_writes.above("writes of statuses", STATUS_WRITES),
        statuses.above("writes of statuses sent", STATUS_WRITES_SENT),
        events.above("Events", EVENTS),
    ];
    complaints.into_iter().flatten().collect()
}

fn rates(world: &World, ledger: &Ledger) -> Vec<String> {
    let (google, api_server) = ledger.rates();
    let bindings = u64::try_from(world.population.bindings.len()).unwrap_or(u64::MAX);
    let figures = [
        ("requests to Google in a second", google.peak(), GOOGLE.min(50 + bindings / 2)),
        ("requests to the API server in a second", api_server.peak(), API_SERVER.min(300 + 5 * bindings)),
        ("writes of a replica at once", ledger.counts.writes_at_once, WRITES.min(10 + bindings)),
    ];
    let above = figures.into_iter().filter(|(_, number, most)| number > most);
    above.map(|(what, number, most)| format!("{number} {what}; {most} are allowed")).collect()
}

impl Figure {
    /// A complaint, if it is more than so many percent of the least.
    fn above(self, what: &str, percent: u64) -> Option<String> {
        let is_above = self.number > self.minimum * percent / 100;
        is_above.then(|| format!("{what}: {self}; {percent} percent of that are allowed"))
    }
}

impl Costs {
    /// Of a run that is over.
    #[must_use]
    pub fn of(world: &World, ledger: &Ledger) -> Self {
        let each: u64 =
            healthy(world, ledger).map(|(binding, account)| tokens(binding, account, world.until)).sum();
        let (counts, groups) = (&ledger.counts, groups(world, ledger));
        Self {
            different: u64::try_from(groups.len()).unwrap_or(u64::MAX),
            mints: Figure { number: counts.mints - counts.unusable, minimum: groups.values().sum() },
            secret_writes: Figure { number: counts.secret_writes, minimum: each },
            status_writes: Figure { number: counts.status_writes, minimum: each },
        }
    }
}

/// The bindings that were made and have nothing of their own against a token.
pub fn healthy<'a>(world: &'a World, ledger: &'a Ledger) -> impl Iterator<Item = (&'a Binding, &'a Account)> {
    let all = world.population.bindings.iter().zip(&ledger.bindings);
    all.filter(|(binding, account)| world.population.is_healthy(binding) && account.created.is_some())
}

/// The least number of tokens by which a binding always has one: its time by the part of a token's life after which it wants another.
fn tokens(binding: &Binding, account: &Account, end: u64) -> u64 {
    let life = LIFE.unsigned_abs();
    let due = life * binding.refresh_percent / 100;
    let every = match binding.identity {
        Identity::Account(_) => due,
        // Before that the metadata server has no other one.
        Identity::Operator => due.max(life - 300),
    };
    (end - account.created.unwrap_or(end)).div_ceil(every)
}

/// The same of each group of bindings that share what they want: those of one tenant that want the same.
fn groups<'a>(world: &'a World, ledger: &'a Ledger) -> HashMap<(usize, &'a str, &'a str), u64> {
    let mut groups = HashMap::new();
    for (binding, account) in healthy(world, ledger) {
        let least: &mut u64 =
            groups.entry((binding.tenant, binding.email(), &*binding.audience)).or_default();
        *least = (*least).max(tokens(binding, account, world.until));
    }
    groups
}

impl fmt::Display for Figure {
    #[allow(clippy::cast_precision_loss)] // a ratio
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.number as f64 / self.minimum.max(1) as f64;
        write!(f, "{} ({ratio:.2} times the least possible, {})", self.number, self.minimum)
    }
}

/// Seconds of a run that is judged by its sums.
const LONG: u64 = 6 * 3600;
/// Of the least possible, in percent. Whoever comes later than others who want the same token keeps a rhythm of his own for hours: in small
/// fleets that makes up to 2.3 times as many mints. Without sharing half of them would make eight times as many, and all at least four.
const MINTS: u64 = 300;
const SECRET_WRITES: u64 = 150;
/// With those that met another version.
const SECRET_WRITES_SENT: u64 = 300;
/// Statuses tell failures, too.
const STATUS_WRITES: u64 = 250;
const STATUS_WRITES_SENT: u64 = 400;
/// Of the least number of writes of Secrets.
const EVENTS: u64 = 300;
/// Requests to Google in a second, of large fleets. The pace would let 500 through, and once as many more after a rest; 96 visits at once
/// don't come to that.
const GOOGLE: u64 = 600;
/// Requests to the API server in a second, of large fleets: 96 visits at once, each answered within a hundredth of a second by the model. Of small
/// ones: two visits of each binding, and what each watch and each tenant asks for.
const API_SERVER: u64 = 15_000;
/// Writes of a replica that are under way at once: one for each of 96 visits, the Lease, and a few that nobody waits for any more.
const WRITES: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Plan;

    /// So many hours, in which only one binding is made. It wants a token every 36 minutes: ten of them in six hours.
    fn world(hours: u64, spend: impl FnOnce(&mut Ledger)) -> Vec<(Rule, String)> {
        let until = hours * 3600;
        let faults = Vec::new();
        let plan =
            Plan { seed: 1, bindings: 100, seconds: until, until, faults, quota: 60_000, defect: None };
        let world = World::new(&plan);
        let one = world.population.bindings.iter().position(|binding| {
            let is_plain = binding.refresh_percent == 60 && binding.identity != Identity::Operator;
            is_plain && world.population.is_healthy(binding)
        });
        world.ledger().bindings[one.unwrap()].created = Some(0);
        spend(&mut world.ledger());
        judge(&world);
        let ledger = world.ledger();
        ledger.failures.iter().map(|(rule, (_, first))| (*rule, first.clone())).collect()
    }

    /// What a run costs beside that.
    type More = fn(&mut Ledger);

    /// As much as is allowed.
    fn all(ledger: &mut Ledger) {
        let counts = &mut ledger.counts;
        (counts.mints, counts.secret_writes, counts.status_writes, counts.events) = (30, 15, 25, 30);
        counts.api_requests =
            [("create secrets", 1), ("update secrets", 29), ("update idtokenbindings/status", 40)]
                .map(|(label, number)| (label.to_owned(), number))
                .into();
        ledger.writing(110);
        (0..100).for_each(|_| ledger.google_request(7));
        (0..800).for_each(|_| ledger.api_request(7, "list namespaces".to_owned()));
    }

    #[test]
    fn what_is_about_the_least_is_allowed_and_what_is_far_more_breaks_a_rule() {
        assert_eq!(world(6, all), []);
        let table: [(Rule, More, &str); 9] = [
            (
                Rule::Mints,
                |ledger| ledger.counts.mints += 1,
                "mints: 31 (3.10 times the least possible, 10); 300 percent of that are allowed",
            ),
            (
                Rule::Writes,
                |ledger| ledger.counts.secret_writes += 1,
                "writes of Secrets: 16 (1.60 times the least possible, 10); 150 percent of that are allowed",
            ),
            (
                Rule::Writes,
                |ledger| ledger.counts.status_writes += 1,
                "writes of statuses: 26 (2.60 times the least possible, 10); 250 percent of that are allowed",
            ),
            (
                Rule::Writes,
                |ledger| ledger.counts.events += 1,
                "Events: 31 (3.10 times the least possible, 10); 300 percent of that are allowed",
            ),
            (
                Rule::Writes,
                |ledger| ledger.api_request(8, "create secrets".to_owned()),
                "writes of Secrets sent: 31 (3.10 times the least possible, 10); 300 percent of that are allowed",
            ),
            (
                Rule::Writes,
                |ledger| ledger.api_request(8, "update idtokenbindings/status".to_owned()),
                "writes of statuses sent: 41 (4.10 times the least possible, 10); 400 percent of that are allowed",
            ),
            (Rule::Rate, |ledger| ledger.writing(111), "111 writes of a replica at once; 110 are allowed"),
            (
                Rule::Rate,
                |ledger| ledger.google_request(7),
                "101 requests to Google in a second; 100 are allowed",
            ),
            (
                Rule::Rate,
                |ledger| ledger.api_request(7, "list namespaces".to_owned()),
                "801 requests to the API server in a second; 800 are allowed",
            ),
        ];
        for (rule, more, how) in table {
            let spend = |ledger: &mut Ledger| {
                all(ledger);
                more(ledger);
            };
            assert_eq!(world(6, spend), [(rule, format!("in all: {how}"))]);
            assert_eq!(
                world(5, spend).is_empty(),
                rule != Rule::Rate,
                "what is short is judged by its rates alone"
            );
        }
    }

    #[test]
    fn what_breaks_a_rule_twice_is_told_whole() {
        let spent = world(1, |ledger| {
            ledger.writing(500);
            (0..500).for_each(|_| ledger.google_request(7));
        });
        let how = "in all: 500 requests to Google in a second; 100 are allowed; 500 writes of a replica at once; 110 are allowed";
        assert_eq!(spent, [(Rule::Rate, how.to_owned())]);
    }

    #[test]
    fn tokens_from_the_future_are_not_the_controllers_fault_unless_they_are_many() {
        for (unusable, broken) in [(11, false), (12, true)] {
            let spent = world(1, |ledger| {
                ledger.availability.lacks(Cause::Clock, 100, 200);
                (0..unusable).for_each(|_| ledger.minted(150));
                assert_eq!((ledger.counts.mints, ledger.counts.unusable), (unusable, unusable));
            });
            let how = "in all: 12 mints while the clock was wrong; 11 are allowed";
            let expected: &[_] = if broken { &[(Rule::Mints, how.to_owned())] } else { &[] };
            assert_eq!(spent, expected);
        }
    }
}
