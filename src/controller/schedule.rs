//! Whether visits are made when they are due. The process notices by itself when none are: a restart heals that, and nothing else does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use crate::telemetry::health::Health;

/// When each binding is due, by UID.
#[derive(Debug)]
pub(super) struct Schedule(Mutex<State>);

#[derive(Debug)]
struct State {
    due: HashMap<String, Instant>,
    /// When a visit ended last.
    ended: Instant,
}

/// What a look at the schedule shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lag {
    /// How long the one that waits the longest has been due.
    pub worst: Duration,
    /// Since when no visit has ended although one was due all the time; `None`: they go on.
    pub stalled: Option<Duration>,
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { due: HashMap::new(), ended: Instant::now() }))
    }

    /// A visit has ended; the next is due after `pause`. `None`: only something that happens makes one.
    pub(super) fn visited(&self, uid: &str, pause: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.ended = now;
        // Far off is as good as never.
        state.due.insert(uid.to_owned(), now + pause.unwrap_or(NEVER).min(NEVER));
    }

    /// Looks at what has become of the bindings that there are. One that was never visited is due from the first look at it.
    pub(super) fn look<'a>(&self, alive: impl Iterator<Item = &'a str>) -> Lag {
        let now = Instant::now();
        let mut state = self.lock();
        let mut due = HashMap::with_capacity(state.due.len());
        for uid in alive {
            let (uid, at) = state.due.remove_entry(uid).unwrap_or_else(|| (uid.to_owned(), now));
            due.insert(uid, at);
        }
        state.due = due;
        let worst = state.due.values().map(|at| now.saturating_duration_since(*at)).max().unwrap_or_default();
        let idle = now.saturating_duration_since(state.ended);
        Lag { worst, stalled: Some(worst.min(idle)).filter(|time| *time >= STALLED) }
    }

    /// Begins anew, as after a time in which another process made the visits.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.due.clear();
        state.ended = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at it until `stop`, and tells what it sees.
pub(super) async fn watch(ctx: Arc<Context>, health: Health, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if ctx.fence.pass().is_none() {
            ctx.schedule.forget();
            ctx.metrics.schedule_lag_seconds.set(0);
            health.stalled("the queue of visits", None);
            continue;
        }
        let state = ctx.bindings.state();
        let lag = ctx.schedule.look(state.iter().filter_map(|binding| binding.metadata.uid.as_deref()));
        ctx.metrics.schedule_lag_seconds.set(i64::try_from(lag.worst.as_secs()).unwrap_or(i64::MAX));
        health.stalled("the queue of visits", lag.stalled);
    }
    health.stalled("the queue of visits", None);
}

const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Beyond every time-out that a visit has, taken together.
const STALLED: Duration = Duration::from_secs(5 * 60);
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const fn lag(worst: u64, stalled: Option<u64>) -> Lag {
        let stalled = match stalled {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => None,
        };
        Lag { worst: Duration::from_secs(worst), stalled }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stands_still_is_noticed_after_five_minutes() {
        let schedule = Schedule::new();
        let look = || schedule.look(["a", "b"].into_iter());
        schedule.visited("a", Some(Duration::from_secs(60)));
        assert_eq!(look(), lag(0, None));
        advance(Duration::from_secs(100)).await;
        assert_eq!(look(), lag(100, None), "b was never visited");
        schedule.visited("b", None);
        advance(Duration::from_secs(299)).await;
        assert_eq!(look(), lag(339, None));
        advance(Duration::from_secs(1)).await;
        assert_eq!(look(), lag(340, Some(300)));
        schedule.visited("b", None);
        assert_eq!(look(), lag(340, None), "slow it may be, but it goes on");
        schedule.visited("a", None);
        advance(Duration::from_hours(10)).await;
        assert_eq!(look(), lag(0, None), "nothing is due");
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_and_bindings_that_are_gone_are_no_reason() {
        let schedule = Schedule::new();
        schedule.visited("a", Some(Duration::from_secs(1)));
        advance(Duration::from_secs(1000)).await;
        assert_eq!(schedule.look(std::iter::empty()), lag(0, None));
        assert_eq!(schedule.look(["a"].into_iter()), lag(0, None), "a new one");
        advance(Duration::from_secs(1000)).await;
        schedule.forget();
        assert_eq!(schedule.look(["a"].into_iter()), lag(0, None));
    }
}
