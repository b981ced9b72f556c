//! All runs that were asked for, on all processors.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{available_parallelism, park_timeout, scope};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::Instant;
use xtask::google::SigningKey;

use crate::report::Report;
use crate::run::run;
use crate::world::Plan;
use crate::{costs, fairness};

/// Runs all `plans`, and tells failures as they come; the reports are in the order of the seeds.
pub fn all(plans: Vec<Plan>) -> anyhow::Result<Vec<Report>> {
    let key = Arc::new(SigningKey::generate("simulation", idtoken_operator::clock::now())?);
    let (seconds, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = plans.iter().map(|plan| plan.until).sum();
    let (queue, reports) = (Mutex::new(plans.into_iter()), Mutex::new(Vec::new()));
    let work = || -> anyhow::Result<()> {
        loop {
            let Some(plan) = lock(&queue).next() else { return Ok(()) };
            let report = one(&plan, &key, &seconds).with_context(|| format!("seed {}", plan.seed))?;
            eprint!("{}", report.complaints());
            lock(&reports).push(report);
        }
    };
    scope(|scope| {
        let teller = scope.spawn(|| tell(&seconds, total, &over));
        let workers = available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results: Vec<_> =
            workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a run panicked"))?).collect();
        over.store(true, Ordering::Relaxed);
        teller.thread().unpark();
        results.into_iter().collect::<anyhow::Result<()>>()
    })?;
    let mut reports = std::mem::take(&mut *lock(&reports));
    reports.sort_by_key(|report: &Report| report.seed);
    Ok(reports)
}

/// One run, and where a tenant fails in it the one that it is compared with.
pub fn one(plan: &Plan, key: &Arc<SigningKey>, progress: &AtomicU64) -> anyhow::Result<Report> {
    let started = Instant::now();
    let world = run(plan, key, progress)?;
    if world.population.failing.is_some() {
        let twin = run(&fairness::twin(plan), key, &AtomicU64::new(0))?;
        fairness::compare(&world, &twin);
    }
    costs::judge(&world);
    Ok(Report::of(plan, &world, started.elapsed()))
}

/// Tells how far all runs are together, until they are over.
fn tell(seconds: &AtomicU64, total: u64, over: &AtomicBool) {
    let terminal = std::io::stderr().is_terminal();
    while !over.load(Ordering::Relaxed) {
        park_timeout(if terminal { Duration::from_secs(1) } else { Duration::from_secs(10) });
        let seconds = seconds.load(Ordering::Relaxed);
        let (percent, hours, all) = (100 * seconds / total.max(1), seconds / 3600, total / 3600);
        let text = format!("simulated {hours} of {all} virtual hours ({percent} %)");
        if terminal {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush(); // nobody looks any more
        } else if !over.load(Ordering::Relaxed) {
            eprintln!("{text}");
        }
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
