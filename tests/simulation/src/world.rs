//! What one run is made of.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::availability::{Cause, SETTLE};
use crate::faults::{Fault, Kind, Schedule};
use crate::ledger::Ledger;
use crate::population::Population;

/// How a run is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What all else follows from.
    pub seed: u64,
    /// How many bindings there are.
    pub bindings: usize,
    /// For how many seconds it is drawn.
    pub seconds: u64,
    /// After how many of them it ends.
    pub until: u64,
    /// What goes wrong.
    pub faults: Vec<Kind>,
    /// How many tokens Google makes in a minute.
    pub quota: u64,
    /// What is done wrong on purpose.
    pub defect: Option<Defect>,
}

/// Something that is wrong on purpose: so that tests see the rules broken that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Replicas act without being elected.
    NoElection,
    /// Google signs for another audience than it was asked for, so that nobody gets a token.
    OtherAudience,
}

/// What goes on in a run, for everybody in it.
#[derive(Debug)]
pub struct World {
    /// What all else follows from.
    pub seed: u64,
    /// After how many seconds it ends.
    pub until: u64,
    /// What goes wrong.
    pub schedule: Schedule,
    /// The fleet.
    pub population: Population,
    /// How many tokens Google makes in a minute.
    pub quota: u64,
    /// What is done wrong on purpose.
    pub defect: Option<Defect>,
    ledger: Mutex<Ledger>,
}

impl World {
    /// Of a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let schedule = Schedule::draw(plan.seed, &plan.faults, plan.seconds);
        let population = Population::draw(plan.seed, plan.bindings, plan.seconds, schedule.denial.is_some());
        let mut ledger = Ledger::new(plan.seconds, plan.bindings);
        for planned in &schedule.planned {
            let (from, until) = (planned.when.start, planned.when.end);
            let cause = match planned.fault {
                Fault::Google(_) | Fault::Storm => Cause::Google,
                Fault::Api(_) => Cause::Api,
                Fault::Sleep => Cause::Asleep,
                Fault::Clock(ahead) if ahead < -TOLERATED => Cause::Clock,
                _ => continue,
            };
            ledger.availability.lacks(cause, from, until);
        }
        for planned in schedule.times(|fault| matches!(fault, Fault::Sleep | Fault::Clock(_))) {
            for jump in [planned.when.start, planned.when.end] {
                ledger.availability.lacks(Cause::Settling, jump, jump + SETTLE);
            }
        }
        Self {
            seed: plan.seed,
            until: plan.until,
            schedule,
            population,
            quota: plan.quota,
            defect: plan.defect,
            ledger: Mutex::new(ledger),
        }
    }

    /// What was seen so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds by which the verifier lets a token be from the future.
const TOLERATED: i64 = 60;
