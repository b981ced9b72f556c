//! The one place that reads the wall clock. Everything else takes the time as an argument.

use std::cell::Cell;

use jiff::Timestamp;

/// The current time. Decisions never call this: the edges do, and pass the result on.
#[must_use]
#[allow(clippy::disallowed_methods)] // the one permitted reader
pub fn now() -> Timestamp {
    SIMULATED.get().map_or_else(Timestamp::now, |simulated| simulated())
}

/// From now on, `clock` is what this thread reads. For simulations alone, which run in virtual time on one thread.
pub fn simulate(clock: fn() -> Timestamp) {
    SIMULATED.set(Some(clock));
}

thread_local! {
    static SIMULATED: Cell<Option<fn() -> Timestamp>> = const { Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_is_that_of_its_thread_alone() {
        let read = std::thread::spawn(|| {
            simulate(|| Timestamp::UNIX_EPOCH);
            now()
        });
        assert_eq!(read.join().unwrap(), Timestamp::UNIX_EPOCH);
        assert!(now() > Timestamp::UNIX_EPOCH);
    }
}
