//! Virtual time, of this thread: the true one, and that of the machines on which the operator runs.
//!
//! The true time is tokio's paused clock, which jumps from timer to timer, and what the machines have slept beside it. The machines'
//! clock is the true time and how wrong it is set.

use std::cell::Cell;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Begins at this thread's first second, and makes it what the product reads. On a runtime with paused time.
pub fn begin() {
    NOW.set(State { origin: Some(Instant::now()), slept: Duration::ZERO, skew: SignedDuration::ZERO });
    idtoken_operator::clock::simulate(|| at(since_start()).saturating_add(skew()).unwrap_or(Timestamp::MAX));
}

/// The true time since the start.
#[must_use]
pub fn since_start() -> Duration {
    let State { origin, slept, .. } = NOW.get();
    origin.map_or(Duration::ZERO, |origin| origin.elapsed()) + slept
}

/// The second of the run that this is.
#[must_use]
pub fn second() -> u64 {
    since_start().as_secs()
}

/// The true time.
#[must_use]
pub fn now() -> Timestamp {
    at(since_start())
}

/// That moment of the run.
#[must_use]
pub fn at(since_start: Duration) -> Timestamp {
    START.saturating_add(since_start).unwrap_or(Timestamp::MAX)
}

/// All machines sleep for so long: the wall clock goes on, timers stand still.
pub fn sleep_machines(time: Duration) {
    let state = NOW.get();
    NOW.set(State { slept: state.slept + time, ..state });
}

/// The machines' clock is ahead of the true time by so much from now on.
pub fn set_skew(skew: SignedDuration) {
    NOW.set(State { skew, ..NOW.get() });
}

fn skew() -> SignedDuration {
    NOW.get().skew
}

/// Returns at that moment of the run, or when the machines have woken up after it.
pub async fn reach(moment: Duration) {
    while let Some(left) = moment.checked_sub(since_start()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left).await;
    }
}

#[derive(Clone, Copy)]
struct State {
    origin: Option<Instant>,
    slept: Duration,
    skew: SignedDuration,
}

thread_local! {
    static NOW: Cell<State> =
        const { Cell::new(State { origin: None, slept: Duration::ZERO, skew: SignedDuration::ZERO }) };
}

/// 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp::constant(1_767_225_600, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn machines_sleep_and_are_set_wrong_while_the_true_time_goes_on() {
        begin();
        let product = || idtoken_operator::clock::now().to_string();
        reach(Duration::from_secs(60)).await;
        assert_eq!((now().to_string(), product()), ("2026-01-01T00:01:00Z".to_owned(), now().to_string()));
        sleep_machines(Duration::from_secs(3600));
        assert_eq!((second(), product()), (3660, "2026-01-01T01:01:00Z".to_owned()));
        set_skew(SignedDuration::from_secs(-30));
        assert_eq!((second(), product()), (3660, "2026-01-01T01:00:30Z".to_owned()));
        reach(Duration::from_secs(10)).await;
        assert_eq!(second(), 3660, "that has passed");
    }
}
