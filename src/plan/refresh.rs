//! When to ask: (lifetime, percent, UID) → refresh, (failures, now) → retry.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};

use super::Retry;

/// Longest time between two looks at a binding. Timers run on the monotonic clock, which knows nothing of wall-clock
/// steps and stands still while a machine sleeps.
pub const RECHECK: SignedDuration = SignedDuration::from_mins(5);

/// A token's `iat` and `exp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// `iat`.
    pub issued: Timestamp,
    /// `exp`.
    pub expires: Timestamp,
}

impl Lifetime {
    /// Whether the token is still good at `now`.
    #[must_use]
    pub fn is_current(self, now: Timestamp) -> bool {
        self.expires > now
    }
}

/// When the token is to be replaced: at `percent` of its lifetime, up to 5 percentage points earlier. How much earlier
/// depends on `uid` alone, so that bindings created together part, and a restart changes nothing.
#[must_use]
pub fn refresh_at(life: Lifetime, percent: u8, uid: &str) -> Timestamp {
    let millis = life.expires.duration_since(life.issued).as_millis().max(0);
    let early = i128::from(fraction(uid, 0)) * millis * 5 / (100 * i128::from(FRACTION));
    let after = millis * i128::from(percent) / 100 - early;
    plus_millis(life.issued, after)
}

/// When to ask again after the source handed out the token that we have already.
///
/// The metadata server keeps a token until about 5 minutes before its end, so a fresh one can be expected
/// then; later than that, an eighth of what is left, between 1 and 30 seconds.
#[must_use]
pub fn ask_again_at(now: Timestamp, expires: Timestamp, uid: &str) -> Timestamp {
    let left = expires.duration_since(now).as_millis();
    let until_cache_ends = left - 5 * 60 * 1000;
    let wait = if until_cache_ends > 0 {
        until_cache_ends + i128::from(fraction(uid, 1)) * 15_000 / i128::from(FRACTION)
    } else {
        (left / 8).clamp(1000, 30_000)
    };
    plus_millis(now, wait)
}

/// When to try again after `failures` failures in a row (at least one); `None`: not before an object changes. The end of all
/// times: not with this credential.
///
/// Transient: 1 s doubling to 2 min. Slowly: 15 s doubling to 10 min. Each is lengthened by up to a quarter, depending
/// on `uid`. A `Retry-After` is a lower bound, believed up to one hour.
#[must_use]
pub fn retry_at(now: Timestamp, retry: Retry, failures: u32, uid: &str) -> Option<Timestamp> {
    let (base, cap, at_least) = match retry {
        Retry::Transient { retry_after } => (1000_i128, 120_000_i128, retry_after.unwrap_or(0).min(3600)),
        Retry::Slowly => (15_000, 600_000, 0),
        Retry::OnChange => return None,
        Retry::OnNewCredential => return Some(Timestamp::MAX),
    };
    let doubled = base << failures.saturating_sub(1).min(16);
    let backoff = doubled.min(cap);
    let jitter = backoff * i128::from(fraction(uid, failures)) / (4 * i128::from(FRACTION));
    Some(plus_millis(now, backoff.max(i128::from(at_least) * 1000) + jitter))
}

/// A part of `range` that depends on `uid` alone, so that many who wait for the same thing do not come at once.
#[must_use]
pub fn spread(uid: &str, range: SignedDuration) -> SignedDuration {
    let millis = range.as_millis() * i128::from(fraction(uid, 2)) / i128::from(FRACTION);
    SignedDuration::from_millis(i64::try_from(millis).unwrap_or_default())
}

/// How long to sleep until `at`: never negative, never longer than [`RECHECK`].
#[must_use]
pub fn sleep_until(now: Timestamp, at: Timestamp) -> std::time::Duration {
    let wait = at.duration_since(now).clamp(SignedDuration::ZERO, RECHECK);
    wait.unsigned_abs()
}

const FRACTION: u32 = 1 << 16;

/// A number below [`FRACTION`] that depends on the arguments alone.
fn fraction(uid: &str, salt: u32) -> u32 {
    let hash = digest(&SHA256, format!("{salt}/{uid}").as_bytes());
    let bytes = hash.as_ref();
    u32::from(bytes[0]) << 8 | u32::from(bytes[1])
}

fn plus_millis(time: Timestamp, millis: i128) -> Timestamp {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    time.saturating_add(SignedDuration::from_millis(millis)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn hour() -> Lifetime {
        Lifetime { issued: at("2026-01-01T10:00:00Z"), expires: at("2026-01-01T11:00:00Z") }
    }

    #[test]
    fn a_token_is_replaced_at_its_percentage_or_up_to_five_points_earlier() {
        for uid in ["a", "b", "c", "6a1c2f3e-0000-4000-8000-000000000001"] {
            let when = refresh_at(hour(), 60, uid);
            assert!(when > at("2026-01-01T10:32:59Z") && when <= at("2026-01-01T10:36:00Z"), "{uid}: {when}");
            assert_eq!(when, refresh_at(hour(), 60, uid), "the same UID gives the same time");
        }
        assert_ne!(refresh_at(hour(), 60, "a"), refresh_at(hour(), 60, "b"));
    }

    #[test]
    fn a_token_of_ten_seconds_is_replaced_within_them() {
        let life = Lifetime { issued: at("2026-01-01T10:00:00Z"), expires: at("2026-01-01T10:00:10Z") };
        let when = refresh_at(life, 60, "a");
        assert!(when >= at("2026-01-01T10:00:05.5Z") && when <= at("2026-01-01T10:00:06Z"), "{when}");
    }

    #[test]
    fn the_same_token_again_is_asked_for_when_the_metadata_servers_cache_ends() {
        let when = ask_again_at(at("2026-01-01T10:36:00Z"), at("2026-01-01T11:00:00Z"), "a");
        assert!(when >= at("2026-01-01T10:55:00Z") && when <= at("2026-01-01T10:55:15Z"), "{when}");
        let late = ask_again_at(at("2026-01-01T10:56:00Z"), at("2026-01-01T11:00:00Z"), "a");
        assert_eq!(late, at("2026-01-01T10:56:30Z"));
        let last = ask_again_at(at("2026-01-01T10:59:58Z"), at("2026-01-01T11:00:00Z"), "a");
        assert_eq!(last, at("2026-01-01T10:59:59Z"));
    }

    #[test]
    fn failures_back_off_and_are_capped() {
        let now = at("2026-01-01T10:00:00Z");
        let soon = Retry::Transient { retry_after: None };
        let wait =
            |retry, failures| retry_at(now, retry, failures, "a").unwrap().duration_since(now).as_millis();
        assert!((1000..=1250).contains(&wait(soon, 1)));
        assert!((4000..=5000).contains(&wait(soon, 3)));
        assert!((120_000..=150_000).contains(&wait(soon, 40)));
        assert!((15_000..=18_750).contains(&wait(Retry::Slowly, 1)));
        assert!((600_000..=750_000).contains(&wait(Retry::Slowly, u32::MAX)));
        assert_eq!(retry_at(now, Retry::OnChange, 1, "a"), None);
        assert_eq!(retry_at(now, Retry::OnNewCredential, 1, "a"), Some(Timestamp::MAX));
    }

    #[test]
    fn those_who_failed_together_come_back_over_a_quarter_of_the_pause() {
        let now = at("2026-01-01T10:00:00Z");
        let soon = Retry::Transient { retry_after: None };
        let (mut waits, mut spreads) = ([0; 4], [0; 4]);
        for number in 0..400 {
            let uid = format!("6a1c2f3e-0000-4000-8000-{number:012}");
            let wait = retry_at(now, soon, 8, &uid).unwrap().duration_since(now).as_millis() - 120_000;
            waits[usize::try_from(wait / 7_500).unwrap()] += 1;
            let spread = spread(&uid, SignedDuration::from_secs(4)).as_millis();
            spreads[usize::try_from(spread / 1_000).unwrap()] += 1;
        }
        assert!(waits.iter().all(|count| (75..=125).contains(count)), "{waits:?}");
        assert!(spreads.iter().all(|count| (75..=125).contains(count)), "{spreads:?}");
    }

    #[test]
    fn retry_after_is_a_lower_bound_believed_up_to_an_hour() {
        let now = at("2026-01-01T10:00:00Z");
        let wait = |seconds| {
            let retry = Retry::Transient { retry_after: Some(seconds) };
            retry_at(now, retry, 1, "a").unwrap().duration_since(now).as_secs()
        };
        assert!((30..=31).contains(&wait(30)));
        assert!((3600..=3601).contains(&wait(999_999)));
    }

    #[test]
    fn sleeps_are_never_negative_and_at_most_five_minutes() {
        let now = at("2026-01-01T10:00:00Z");
        assert_eq!(sleep_until(now, at("2026-01-01T09:00:00Z")), std::time::Duration::ZERO);
        assert_eq!(sleep_until(now, at("2026-01-01T10:00:07Z")), std::time::Duration::from_secs(7));
        assert_eq!(sleep_until(now, at("2026-01-01T12:00:00Z")), std::time::Duration::from_secs(300));
    }
}
