//! Leader election over a Lease: who may lead, and what is to be written.
//!
//! Clocks of different machines are never compared: how long a record has stood unchanged is measured by whoever waits.
//!
//! ```text
//! leader    renews ──▶ can't renew ── deadline: mints and writes no more
//! follower  sees the record unchanged ───────── duration: takes over
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};

/// The times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a record stands unchanged before another takes over.
    pub duration: Duration,
    /// How long after its last renewal a leader may act: shorter, so that it has stopped by then.
    pub deadline: Duration,
    /// Between two renewals.
    pub renewal: Duration,
    /// Between two looks of a follower.
    pub look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renewal: Duration::from_secs(2),
            look: Duration::from_secs(1),
        }
    }
}

/// What to do with a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is ours: write that we are alive.
    Renew,
    /// Nobody's, given back, or its holder was silent for too long: write that it is ours.
    TakeOver,
    /// Somebody else leads.
    Follow,
}

/// What `identity` does with a Lease that it has seen unchanged for `unchanged`; `None`: there is none.
#[must_use]
pub fn step(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration, timing: &Timing) -> Step {
    let Some(lease) = lease else { return Step::TakeOver };
    match lease.holder_identity.as_deref().unwrap_or_default() {
        "" => Step::TakeOver,
        holder if holder == identity => Step::Renew,
        _ if unchanged >= promised(lease, timing) => Step::TakeOver,
        _ => Step::Follow,
    }
}

/// The Lease with `identity` as its holder, as of `now`.
#[must_use]
pub fn held(before: Option<LeaseSpec>, identity: &str, now: Timestamp, timing: &Timing) -> LeaseSpec {
    let mut lease = before.unwrap_or_default();
    // Also where there is a Lease that nobody has held yet: the chart's is empty.
    let first = lease.holder_identity.is_none();
    let ours = lease.holder_identity.as_deref() == Some(identity);
    if !ours {
        let terms = lease.lease_transitions.unwrap_or(0);
        lease.lease_transitions = Some(if first { 0 } else { terms.saturating_add(1) });
        lease.acquire_time = Some(MicroTime(now));
        lease.holder_identity = Some(identity.to_owned());
    }
    lease.renew_time = Some(MicroTime(now));
    lease.lease_duration_seconds = Some(i32::try_from(timing.duration.as_secs()).unwrap_or(i32::MAX));
    lease
}

/// The Lease given back as of `now`, so that another need not wait; `None`: it is not ours to give.
#[must_use]
pub fn released(lease: &LeaseSpec, identity: &str, now: Timestamp) -> Option<LeaseSpec> {
    let ours = lease.holder_identity.as_deref() == Some(identity);
    ours.then(|| LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        ..lease.clone()
    })
}

/// What the holder has promised to be silent for at most.
fn promised(lease: &LeaseSpec, timing: &Timing) -> Duration {
    let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.filter(|seconds| *seconds > 0).map_or(timing.duration, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_leader_stops_well_before_another_may_start() {
        let timing = Timing::default();
        assert_eq!((timing.duration, timing.deadline), (Duration::from_secs(15), Duration::from_secs(10)));
        assert!(timing.renewal * 3 < timing.deadline, "several renewals may fail");
    }

    #[test]
    fn steps() {
        let timing = Timing::default();
        for (lease, unchanged, expected) in [
            (None, 0, Step::TakeOver),
            (Some(LeaseSpec::default()), 0, Step::TakeOver),
            (Some(lease("", Some(1))), 0, Step::TakeOver),
            (Some(lease("me", Some(15))), 0, Step::Renew),
            (Some(lease("me", Some(15))), 3600, Step::Renew),
            (Some(lease("other", Some(15))), 0, Step::Follow),
            (Some(lease("other", Some(15))), 14, Step::Follow),
            (Some(lease("other", Some(15))), 15, Step::TakeOver),
            (Some(lease("other", Some(60))), 59, Step::Follow),
            (Some(lease("other", Some(60))), 60, Step::TakeOver),
            (Some(lease("other", None)), 14, Step::Follow),
            (Some(lease("other", Some(0))), 14, Step::Follow),
            (Some(lease("other", Some(-1))), 15, Step::TakeOver),
        ] {
            let step = step(lease.as_ref(), "me", Duration::from_secs(unchanged), &timing);
            assert_eq!(step, expected, "{lease:?} unchanged for {unchanged} s");
        }
    }

    #[test]
    fn terms_are_counted_and_a_renewal_is_none() {
        let timing = Timing::default();
        let first = held(None, "a", at(100), &timing);
        assert_eq!(
            first,
            LeaseSpec {
                holder_identity: Some("a".to_owned()),
                lease_duration_seconds: Some(15),
                lease_transitions: Some(0),
                acquire_time: Some(MicroTime(at(100))),
                renew_time: Some(MicroTime(at(100))),
                ..LeaseSpec::default()
            }
        );
        assert_eq!(held(Some(LeaseSpec::default()), "a", at(100), &timing), first, "the chart's empty one");
        let renewed = held(Some(first), "a", at(102), &timing);
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(0), &Some(MicroTime(at(100)))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(102))));
        let taken = held(Some(renewed), "b", at(120), &timing);
        assert_eq!((taken.lease_transitions, &taken.acquire_time), (Some(1), &Some(MicroTime(at(120)))));
    }

    #[test]
    fn only_ones_own_lease_is_given_back() {
        let given = released(&lease("me", Some(15)), "me", at(5)).unwrap();
        assert_eq!((given.holder_identity.as_deref(), given.lease_duration_seconds), (Some(""), Some(1)));
        assert_eq!(given.lease_transitions, Some(3));
        assert_eq!(released(&lease("other", Some(15)), "me", at(5)), None);
    }
}
