//! In which seconds a token could be had.

/// Why no token can be had in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Google is down, or refuses nearly everybody.
    Google = 1,
    /// The API server is down.
    Api = 2,
    /// Somebody was refused since too many asked.
    Quota = 4,
    /// The machines sleep.
    Asleep = 8,
    /// The wall clock has just jumped: timers know nothing of that, and are late by [`SETTLE`] at most.
    Settling = 16,
    /// The machines' clock is so far behind that every new token is from the future.
    Clock = 32,
}

/// Second by second.
#[derive(Clone, Debug)]
pub struct Availability {
    causes: Vec<u8>,
    led: Vec<bool>,
}

impl Availability {
    /// Of a run of so many seconds, in which nobody leads yet and nothing else is in the way.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        let seconds = index(seconds) + 1;
        Self { causes: vec![0; seconds], led: vec![false; seconds] }
    }

    /// Notes `cause` for these seconds.
    pub fn lacks(&mut self, cause: Cause, from: u64, until: u64) {
        let end = index(until).min(self.causes.len());
        self.causes[index(from).min(end)..end].iter_mut().for_each(|causes| *causes |= cause as u8);
    }

    /// Somebody who lives leads, from this second on for as long as that lasts without another word.
    pub fn led(&mut self, second: u64) {
        let end = index(second + LEADS).min(self.led.len());
        self.led[index(second).min(end)..end].fill(true);
    }

    /// The leader is lost.
    pub fn leaderless(&mut self, second: u64) {
        let from = index(second).min(self.led.len());
        self.led[from..].fill(false);
    }

    /// Whether `cause` is in the way in that second.
    #[must_use]
    pub fn is_lacking(&self, cause: Cause, second: u64) -> bool {
        self.causes.get(index(second)).is_some_and(|causes| causes & cause as u8 != 0)
    }

    /// In how many seconds `cause` is in the way.
    #[must_use]
    pub fn seconds_of(&self, cause: Cause) -> u64 {
        self.causes.iter().fold(0, |seconds, causes| seconds + u64::from(causes & cause as u8 != 0))
    }

    /// Whether a token can be had in that second.
    #[must_use]
    pub fn at(&self, second: u64) -> bool {
        let second = index(second);
        self.causes.get(second) == Some(&0) && self.led.get(second) == Some(&true)
    }

    /// The longest time together, in seconds of `from..until`, in which a token could be had.
    #[must_use]
    pub fn longest(&self, from: u64, until: u64) -> u64 {
        let run = |(longest, run): (u64, u64), second| {
            let run = if self.at(second) { run + 1 } else { 0 };
            (longest.max(run), run)
        };
        (from..until).fold((0, 0), run).0
    }

    /// In how many of these seconds a token could be had.
    #[must_use]
    pub fn count(&self, from: u64, until: u64) -> u64 {
        (from..until).fold(0, |count, second| count + u64::from(self.at(second)))
    }
}

fn index(second: u64) -> usize {
    usize::try_from(second).unwrap_or(usize::MAX)
}

/// Seconds from the last renewal of a Lease for which its holder acts.
const LEADS: u64 = 10;
/// Seconds by which a timer may be late after a jump of the wall clock.
pub const SETTLE: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_can_be_had_where_nothing_is_in_the_way_and_somebody_leads() {
        let mut availability = Availability::new(100);
        assert_eq!(availability.longest(0, 100), 0, "nobody leads");
        for second in (0..100).step_by(5) {
            availability.led(second);
        }
        assert_eq!(availability.longest(0, 100), 100);
        availability.lacks(Cause::Google, 40, 50);
        availability.lacks(Cause::Quota, 45, 55);
        assert_eq!(
            (availability.longest(0, 100), availability.longest(30, 60), availability.count(30, 60)),
            (45, 10, 15)
        );
        availability.leaderless(70);
        assert_eq!(
            (availability.longest(50, 100), availability.at(69), availability.at(70)),
            (15, true, false)
        );
        availability.lacks(Cause::Api, 90, 1000);
        let google = [39, 40, 49, 50].map(|second| availability.is_lacking(Cause::Google, second));
        assert_eq!(google, [false, true, true, false]);
        assert_eq!(
            [Cause::Google, Cause::Quota, Cause::Clock].map(|cause| availability.seconds_of(cause)),
            [10, 10, 0]
        );
    }

    #[test]
    fn who_does_not_renew_leads_for_ten_seconds() {
        let mut availability = Availability::new(100);
        availability.led(20);
        assert_eq!([19, 20, 29, 30].map(|second| availability.at(second)), [false, true, true, false]);
    }
}
