//! What a run may cost: tokens, writes, and how much of it at once.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

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
    let Costs { mints, secret_writes, status_writes } = Costs::of(world, &ledger);
    let is_long = world.until >= LONG;
    let (requests, writes) = (ledger.rates().0.peak(), ledger.counts.writes_at_once);
    for (rule, what, figure, percent) in [
        (Rule::Mints, "mints", mints, MINTS),
        (Rule::Writes, "writes of Secrets", secret_writes, SECRET_WRITES),
        (Rule::Writes, "writes of statuses", status_writes, STATUS_WRITES),
    ] {
        if is_long && figure.number > figure.minimum * percent / 100 {
            ledger.broken_by_all(rule, || format!("{what}: {figure}; {percent} percent of that are allowed"));
        }
    }
    if requests > REQUESTS {
        ledger.broken_by_all(Rule::Rate, || {
            format!("{requests} requests to Google in a second; {REQUESTS} are allowed")
        });
    }
    if writes > WRITES {
        ledger.broken_by_all(Rule::Rate, || {
            format!("a replica had {writes} writes under way at once; {WRITES} are allowed")
        });
    }
}

impl Costs {
    /// Of a run that is over.
    #[must_use]
    pub fn of(world: &World, ledger: &Ledger) -> Self {
        let each: u64 =
            healthy(world, ledger).map(|(binding, account)| tokens(binding, account, world.until)).sum();
        let counts = &ledger.counts;
        Self {
            mints: Figure { number: counts.mints - counts.unusable, minimum: least_mints(world, ledger) },
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

/// The same of all bindings where those of one tenant share what they want alike.
fn least_mints(world: &World, ledger: &Ledger) -> u64 {
    let mut groups: HashMap<(usize, &str, &str), u64> = HashMap::new();
    for (binding, account) in healthy(world, ledger) {
        let least = groups.entry((binding.tenant, binding.email(), &binding.audience)).or_default();
        *least = (*least).max(tokens(binding, account, world.until));
    }
    groups.values().sum()
}

impl fmt::Display for Figure {
    #[allow(clippy::cast_precision_loss)] // a ratio
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.number as f64 / self.minimum.max(1) as f64;
        write!(f, "{} ({ratio:.2} times the least possible, {})", self.number, self.minimum)
    }
}

/// Seconds of a run in which chance does not weigh too much: a token more is little where ten are needed.
const LONG: u64 = 6 * 3600;
/// Of the least possible, in percent. Whoever comes later than others who want the same token keeps a rhythm of his own for hours: in small
/// fleets that makes up to 2.3 times as many mints. Without sharing half of them would make eight times as many, and all at least four.
const MINTS: u64 = 300;
const SECRET_WRITES: u64 = 150;
/// Statuses tell failures, too.
const STATUS_WRITES: u64 = 250;
/// Requests to Google in a second: a fifth more than the operator's own pace.
const REQUESTS: u64 = 600;
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

    #[test]
    fn what_is_about_the_least_is_allowed_and_what_is_far_more_breaks_a_rule() {
        let spend = |hours, mints, secrets, statuses, at_once, requests| {
            world(hours, |ledger| {
                ledger.counts.mints = mints;
                (ledger.counts.secret_writes, ledger.counts.status_writes) = (secrets, statuses);
                ledger.writing(at_once);
                (0..requests).for_each(|_| ledger.google_request(7));
            })
        };
        assert_eq!(spend(6, 30, 15, 25, 128, 600), []);
        let broken = |spent: Vec<(Rule, String)>| {
            let [(rule, how)] = spent.as_slice() else { panic!("{spent:?}") };
            (*rule, how.split_once("in all: ").unwrap().1.to_owned())
        };
        let table = [
            (
                spend(6, 31, 15, 25, 128, 600),
                Rule::Mints,
                "mints: 31 (3.10 times the least possible, 10); 300 percent",
            ),
            (
                spend(6, 30, 16, 25, 128, 600),
                Rule::Writes,
                "writes of Secrets: 16 (1.60 times the least possible, 10); 150",
            ),
            (
                spend(6, 30, 15, 26, 128, 600),
                Rule::Writes,
                "writes of statuses: 26 (2.60 times the least possible, 10); 250",
            ),
            (
                spend(6, 30, 15, 25, 129, 600),
                Rule::Rate,
                "a replica had 129 writes under way at once; 128 are allowed",
            ),
            (
                spend(5, 99, 99, 99, 128, 601),
                Rule::Rate,
                "601 requests to Google in a second; 600 are allowed",
            ),
        ];
        for (spent, rule, words) in table {
            let (which, how) = broken(spent);
            assert_eq!(which, rule);
            assert!(how.starts_with(words), "{how}");
        }
    }

    #[test]
    fn tokens_from_the_future_are_not_the_controllers_fault() {
        let spent = world(6, |ledger| {
            ledger.availability.lacks(crate::availability::Cause::Clock, 100, 200);
            (0..30).for_each(|_| ledger.minted(99));
            (100..200).for_each(|second| ledger.minted(second));
            assert_eq!((ledger.counts.mints, ledger.counts.unusable), (130, 100));
        });
        assert_eq!(spent, []);
    }
}
