//! How fast Google is asked: a token bucket whose rate is halved when Google says that it was too fast, and grows again with every answer
//! (additive increase, multiplicative decrease).

use std::time::Duration;

/// The rate of one quota. Times are those of a monotonic clock, counted from any moment.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Requests a second, at present and at most.
    rate: f64,
    most: f64,
    /// Requests that may be sent at once.
    saved: f64,
    /// Requests that were sent away and will come back: those that are urgent, and the others, which wait for them, too.
    urgent: f64,
    backlog: f64,
    /// When all that was so.
    at: Duration,
    /// Nothing is sent before.
    closed_until: Duration,
    /// When the rate was halved last.
    slowed: Option<Duration>,
}

impl Pace {
    /// At most so many requests a second, and as many at once.
    #[must_use]
    pub fn new(most: u16) -> Self {
        let most = f64::from(most).max(LEAST_SAVED);
        let (at, closed_until) = (Duration::ZERO, Duration::ZERO);
        Self { rate: most, most, saved: most, urgent: 0.0, backlog: 0.0, at, closed_until, slowed: None }
    }

    /// Lets a request be sent at `now`, or says when to come back. As long as Google holds us back, half of what may be sent at once
    /// is kept for what is `urgent`.
    pub fn take(&mut self, now: Duration, urgent: bool) -> Result<(), Duration> {
        self.go_on(now);
        let kept = if urgent || !self.is_held_back() { 0.0 } else { self.room() / 2.0 };
        if now >= self.closed_until && self.saved >= 1.0 + kept {
            self.saved -= 1.0;
            return Ok(());
        }
        // One after another, not all together; but nobody by a rate that may be another one long before.
        let line = if urgent { &mut self.urgent } else { &mut self.backlog };
        *line = (*line + 1.0).min(self.rate * LONGEST_LINE);
        let before = if urgent { self.urgent } else { self.urgent + self.backlog };
        Err(now.max(self.closed_until) + Duration::from_secs_f64(before / self.rate))
    }

    /// Google gave an answer.
    pub fn answered(&mut self, now: Duration) {
        self.go_on(now);
        // A minute of full speed leads from the least to the most.
        self.rate = (self.rate + (self.most / RECOVERY / self.rate).min(self.rate)).min(self.most);
    }

    /// Google said 429, and perhaps when to come back.
    pub fn refused(&mut self, now: Duration, retry_after: Option<Duration>) {
        self.go_on(now);
        if let Some(pause) = retry_after {
            self.closed_until = self.closed_until.max(now + pause.min(LONGEST_PAUSE));
        }
        // What was sent together is refused together: that is one refusal.
        if self.slowed.is_none_or(|at| now >= at + SAME) {
            self.slowed = Some(now);
            self.rate = (self.rate / 2.0).max(LEAST);
            self.saved = 0.0;
        }
    }

    /// When it was used last.
    #[must_use]
    pub fn last_used(&self) -> Duration {
        self.at
    }

    fn is_held_back(&self) -> bool {
        self.rate < self.most
    }

    /// What can be saved.
    fn room(&self) -> f64 {
        self.rate.max(LEAST_SAVED)
    }

    fn go_on(&mut self, now: Duration) {
        let sent = now.saturating_sub(self.at).as_secs_f64() * self.rate;
        self.at = self.at.max(now);
        self.saved = (self.saved + sent).min(self.room());
        let left = (sent - self.urgent).max(0.0);
        self.urgent = (self.urgent - sent).max(0.0);
        self.backlog = (self.backlog - left).max(0.0);
    }
}

/// Requests a second that remain whatever is refused.
const LEAST: f64 = 1.0;
/// Enough for one that is not urgent beside the half that is kept.
const LEAST_SAVED: f64 = 2.0;
/// Seconds from the least rate to the most.
const RECOVERY: f64 = 60.0;
const SAME: Duration = Duration::from_secs(1);
/// Seconds for which one is sent away at most, and as long again behind what is urgent: in a minute the least rate may have become the most.
const LONGEST_LINE: f64 = 30.0;
/// A `Retry-After` is believed up to this: Google's quotas are by the minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// How many are let through from `from` to `to`, asked for each millisecond.
    fn passed(pace: &mut Pace, from: u64, to: u64, urgent: bool) -> usize {
        (from..to).filter(|at| pace.take(ms(*at), urgent).is_ok()).count()
    }

    #[test]
    fn a_second_is_let_through_at_once_and_then_so_many_each_second() {
        let mut pace = Pace::new(100);
        assert_eq!((0..150).filter(|_| pace.take(ms(0), false).is_ok()).count(), 100);
        assert!((99..=100).contains(&passed(&mut pace, 1, 1001, false)));
        assert_eq!(passed(&mut pace, 60_000, 60_001, false), 1);
        let burst = (0..150).filter(|_| pace.take(ms(60_001), false).is_ok()).count();
        assert_eq!(burst, 99, "a minute's silence saves a second's worth, no more");
    }

    #[test]
    fn who_is_sent_away_comes_back_one_after_another() {
        let mut pace = Pace::new(100);
        assert_eq!((0..100).filter(|_| pace.take(ms(0), false).is_ok()).count(), 100);
        let back: Vec<_> = (0..3).map(|_| pace.take(ms(0), false)).collect();
        assert_eq!(back, [Err(ms(10)), Err(ms(20)), Err(ms(30))]);
        assert_eq!(pace.take(ms(20), false), Ok(()), "and then there is room");
    }

    #[test]
    fn of_thousands_who_are_sent_away_in_a_storm_all_come_back_soon_enough_to_see_that_it_is_over() {
        let mut pace = Pace::new(500);
        for second in 0..20 {
            pace.refused(ms(second * 1000), None);
        }
        let back: Vec<_> = (0..5000).filter_map(|_| pace.take(ms(20_000), true).err()).collect();
        assert_eq!(
            (back[0], back[9], back[4998]),
            (ms(21_000), ms(30_000), ms(50_000)),
            "one a second remains"
        );
        let others: Vec<_> = (0..5000).filter_map(|_| pace.take(ms(20_000), false).err()).collect();
        assert_eq!((others[0], others[4999]), (ms(51_000), ms(80_000)), "behind what is urgent");
        let mut sent = 0;
        for at in 50_000..110_000 {
            if pace.take(ms(at), true).is_ok() {
                sent += 1;
                pace.answered(ms(at));
            }
        }
        assert!(sent > 10_000, "{sent}: those who had been sent away do not stand in the way");
    }

    #[test]
    fn a_refusal_halves_the_rate_once_and_answers_bring_it_back_within_a_minute_or_so() {
        let mut pace = Pace::new(100);
        for at in 0..50 {
            pace.refused(ms(at), None);
        }
        let sent = passed(&mut pace, 50, 2050, true);
        assert!((100..=103).contains(&sent), "50 a second, for together they are one refusal: {sent}");
        pace.refused(ms(2050), None);
        let sent = passed(&mut pace, 2050, 4050, true);
        assert!((49..=50).contains(&sent), "25 a second: {sent}");
        let mut sent = 0;
        for at in 4050..64_050 {
            if pace.take(ms(at), true).is_ok() {
                sent += 1;
                pace.answered(ms(at));
            }
        }
        assert!((3500..5500).contains(&sent), "{sent}");
        let sent = passed(&mut pace, 70_000, 71_000, false);
        assert!((198..=200).contains(&sent), "what was saved, and 100 in the second: {sent}");
    }

    #[test]
    fn what_is_urgent_goes_first_while_google_holds_us_back() {
        let mut pace = Pace::new(100);
        for second in 0..20 {
            pace.refused(ms(second * 1000), None);
        }
        // One a second remains. Nobody urgent: others get it.
        assert!((9..=10).contains(&passed(&mut pace, 20_000, 30_000, false)));
        // Somebody urgent each second: others get nothing.
        let mut others = 0;
        for at in (30_000..40_000).step_by(100) {
            others += usize::from(pace.take(ms(at), true).is_err() && pace.take(ms(at), false).is_ok());
        }
        assert_eq!(others, 0);
    }

    #[test]
    fn retry_after_is_waited_for_and_believed_up_to_five_minutes() {
        let mut pace = Pace::new(100);
        pace.refused(ms(0), Some(ms(30_000)));
        assert_eq!(pace.take(ms(1), true), Err(ms(30_020)), "50 a second by then");
        assert_eq!(pace.take(ms(30_000), true), Ok(()));
        pace.refused(ms(40_000), Some(Duration::from_hours(24)));
        pace.refused(ms(50_000), Some(ms(1000)));
        assert!(pace.take(ms(339_999), true).is_err(), "a shorter one after it changes nothing");
        assert_eq!(pace.take(ms(340_000), true), Ok(()));
    }
}
