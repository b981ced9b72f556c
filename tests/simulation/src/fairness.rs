//! What a tenant whose identities all fail costs the others: the same run is made once more without its failing.

use crate::availability::Availability;
use crate::faults::Kind;
use crate::ledger::{Account, Rule};
use crate::world::{Plan, World};

/// The run to compare with: the same, but nobody fails by himself; only as long as is needed.
#[must_use]
pub fn twin(plan: &Plan) -> Plan {
    let faults = plan.faults.iter().copied().filter(|kind| *kind != Kind::FailingTenant).collect();
    Plan { faults, until: plan.until.min(COMPARED), ..plan.clone() }
}

/// Notes in `world` where its healthy bindings waited for their first tokens much longer than in `twin`.
pub fn compare(world: &World, twin: &World) {
    let (with, without) = (worst_wait(world, twin.until, world), worst_wait(twin, twin.until, world));
    if with > 2 * without + PAUSE {
        world.ledger().broken_by_all(Rule::Fair, || {
            format!(
                "beside a tenant that fails, a binding of another one waited {with} s for its first token in which it could be had; \
                 without it, {without} s"
            )
        });
    }
}

/// The longest wait in which a token could be had, up to the second `end`, of bindings that are healthy in `judged`.
fn worst_wait(world: &World, end: u64, judged: &World) -> u64 {
    let ledger = world.ledger();
    let availability = &ledger.availability;
    let healthy = world.population.bindings.iter().zip(&ledger.bindings);
    let healthy = healthy.filter(|(binding, _)| judged.population.is_healthy(binding));
    healthy.filter_map(|(_, account)| wait(account, availability, end)).max().unwrap_or(0)
}

fn wait(account: &Account, availability: &Availability, end: u64) -> Option<u64> {
    let created = account.created.filter(|created| *created < end)?;
    let until = account.waited.map_or(end, |waited| (created + waited).min(end));
    Some(availability.count(created, until))
}

/// Seconds of the beginning, in which nearly all bindings are made.
const COMPARED: u64 = 3600;
/// Seconds of the longest pause between two attempts, by which luck alone can lengthen a wait.
const PAUSE: u64 = 150;

#[cfg(test)]
mod tests {
    use super::*;

    /// A world in which somebody always leads and a healthy binding waited so long for its first token.
    fn waited(seconds: Option<u64>, faults: &[Kind]) -> World {
        let plan = Plan {
            seed: 1,
            bindings: 100,
            seconds: 7200,
            until: 3600,
            faults: faults.to_vec(),
            quota: 60_000,
            defect: None,
        };
        let world = World::new(&plan);
        let healthy = world
            .population
            .bindings
            .iter()
            .position(|binding| binding.tenant == 1 && !binding.is_obstructed && binding.created == 0);
        let mut ledger = world.ledger();
        (0..3600).for_each(|second| ledger.availability.led(second));
        ledger.bindings[healthy.unwrap()] =
            Account { created: Some(0), waited: seconds, ..Account::default() };
        drop(ledger);
        world
    }

    #[test]
    fn a_wait_of_much_more_than_twice_that_without_the_failing_tenant_is_unfair() {
        for (with, without, is_fair) in [
            (Some(170), Some(10), true),
            (Some(171), Some(10), false),
            (Some(350), Some(100), true),
            (None, Some(100), false),
        ] {
            let (world, twin) = (waited(with, &[Kind::FailingTenant]), waited(without, &[]));
            compare(&world, &twin);
            assert_eq!(world.ledger().failures.contains_key(&Rule::Fair), !is_fair, "{with:?} {without:?}");
        }
    }
}
