//! What happened → conditions. And: is the status worth a write, and the change worth an event?

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{
    Attempts, Problem, Retry,
    secret::{Record, sha256_hex},
};
use crate::api::{ConditionType, IdTokenBindingStatus, Reason, condition::Stall};

/// What is known of a binding after a visit.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// `metadata.generation` that was worked on.
    pub generation: Option<i64>,
    /// Name of the source that is set.
    pub source: &'a str,
    /// Name of the Secret; empty where the spec is too broken to tell.
    pub secret_name: &'a str,
    /// `metadata.resourceVersion` of our Secret.
    pub secret_resource_version: Option<&'a str>,
    /// What our Secret holds.
    pub record: Option<&'a Record>,
    /// Whether that is a verified, unexpired token for this spec.
    pub is_good: bool,
    /// What went wrong. A binding that rests has only one problem: it is not granted.
    pub problem: Option<&'a Problem>,
    /// Whether the binding rests.
    pub suspended: bool,
    /// Since when `problem`, or another that only somebody outside can heal, has lasted for this generation.
    pub failing_since: Option<Timestamp>,
    /// When the source is asked next.
    pub next_refresh: Option<Timestamp>,
    /// What was tried before and failed.
    pub attempts: Option<&'a Attempts>,
    /// Since when no grant allows what stands in the Secret.
    pub not_granted_since: Option<Timestamp>,
}

/// A Kubernetes Event worth sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Warning, else Normal.
    pub is_warning: bool,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub note: String,
}

/// The status after a visit that found `report`. `lastTransitionTime` moves only with a condition's status.
#[must_use]
pub fn next(previous: &IdTokenBindingStatus, report: Report<'_>, now: Timestamp) -> IdTokenBindingStatus {
    let mut conditions = previous.conditions.clone();
    let generation = report.generation;
    let mut set = |type_: ConditionType, verdict: Verdict| {
        set_condition(&mut conditions, type_, verdict, generation, now);
    };
    set(ConditionType::Ready, ready(report));
    set(ConditionType::Degraded, degraded(report));
    let verdict = stalled(report, &conditions, now);
    set_condition(&mut conditions, ConditionType::Stalled, verdict, generation, now);
    let text = |t: &str| Some(t.to_owned()).filter(|t| !t.is_empty());
    IdTokenBindingStatus {
        observed_generation: report.generation,
        conditions,
        source: text(report.source),
        secret_name: text(report.secret_name),
        secret_resource_version: report.secret_resource_version.map(str::to_owned),
        identity: report.record.and_then(|r| r.identity.clone()),
        issuer: report.record.map(|r| r.issuer.clone()),
        issue_time: report.record.map(|r| r.life.issued),
        expiration_time: report.record.map(|r| r.life.expires),
        next_refresh_time: report.next_refresh,
        refused_attempt: match report.attempts {
            Some(attempts) => refused_attempt(attempts),
            // Nothing was tried; a token that is as it should be was not refused.
            None if report.is_good && report.problem.is_none() && !report.suspended => None,
            None => previous.refused_attempt.clone(),
        },
        not_granted_since: report.not_granted_since,
    }
}

/// A credential that Google refused, as another replica, or this one before a restart, noted it in `status`: the try with this
/// `key` is not made again.
#[must_use]
pub fn refused_before(status: &IdTokenBindingStatus, key: &str) -> Option<Attempts> {
    if status.refused_attempt.as_deref() != Some(sha256_hex(key.as_bytes()).as_str()) {
        return None;
    }
    // Something else may have been the matter since.
    let [refused, unfit] = [Reason::CredentialsRefused, Reason::CredentialsNotAllowed];
    let told = |reason: Reason| {
        status.conditions.iter().find(|c| c.reason == reason.as_str() && !c.message.is_empty())
    };
    let (reason, message) = match (told(refused), told(unfit)) {
        (Some(condition), _) => (refused, condition.message.clone()),
        (None, Some(condition)) => (unfit, condition.message.clone()),
        (None, None) => (refused, "Google refused this credential before; give another one".to_owned()),
    };
    let problem = Problem { reason, message, retry: Retry::OnNewCredential };
    Some(Attempts::for_good(key.to_owned(), problem))
}

fn refused_attempt(attempts: &Attempts) -> Option<String> {
    let refused = attempts.problem.retry == Retry::OnNewCredential;
    refused.then(|| sha256_hex(attempts.pause.key.as_bytes()))
}

/// Whether `next` is worth a write: always when a condition or the token changed; when only words or times of a lasting
/// failure did, every 15 minutes; when only the time of the next request did, every minute.
#[must_use]
pub fn is_worth_writing(
    previous: &IdTokenBindingStatus,
    next: &IdTokenBindingStatus,
    last_write: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let since_write = last_write.map(|at| now.duration_since(at));
    let is_pending = find(&next.conditions, "Ready").is_some_and(|c| c.reason == Reason::Pending.as_str());
    // That nothing is known yet is no news for who has heard something.
    if previous == next || is_pending && is_told(previous) {
        return false;
    }
    let is = |type_, status: &str| find(&next.conditions, type_).is_some_and(|c| c.status == status);
    let pause = if is("Degraded", "True") || is("Ready", "False") { FAILING_PAUSE } else { WELL_PAUSE };
    let differs = if pause == FAILING_PAUSE {
        essence(previous) != essence(next)
    } else {
        (IdTokenBindingStatus { next_refresh_time: next.next_refresh_time, ..previous.clone() }) != *next
    };
    differs || since_write.is_none_or(|t| t >= pause)
}

/// Whether anything was told of the binding. Conditions of others don't count.
#[must_use]
pub fn is_told(status: &IdTokenBindingStatus) -> bool {
    find(&status.conditions, "Ready").is_some()
}

/// When a failure that has lasted `since` becomes `Stalled`; `None`: it doesn't, or has already.
#[must_use]
pub fn stalls_at(since: Option<Timestamp>, problem: &Problem, now: Timestamp) -> Option<Timestamp> {
    let at = since?.saturating_add(STALL_AFTER).ok()?;
    (problem.reason.stalls() == Some(Stall::AfterTenMinutes) && at > now).then_some(at)
}

/// The event for the step from `previous` to `next`: one when the outcome changed, none for a refresh like the last or for a first token
/// that met no trouble.
#[must_use]
pub fn event(
    previous: &IdTokenBindingStatus,
    next: &IdTokenBindingStatus,
    problem: Option<&Problem>,
) -> Option<Event> {
    let outcome = |status: &IdTokenBindingStatus| {
        let of = |t: &str| find(&status.conditions, t).map(|c| (c.status.clone(), c.reason.clone()));
        (of("Ready"), of("Degraded"))
    };
    if outcome(previous) == outcome(next) {
        return None;
    }
    if let Some(problem) = problem {
        return Some(Event { is_warning: true, reason: problem.reason, note: problem.message.clone() });
    }
    // A first token without any trouble is what everybody expects, and thousands of them would be as many writes.
    find(&previous.conditions, "Ready").filter(|c| c.status != "Unknown")?;
    let ready = find(&next.conditions, "Ready").filter(|c| c.status == "True" && c.reason == "TokenFresh")?;
    Some(Event { is_warning: false, reason: Reason::TokenFresh, note: ready.message.clone() })
}

struct Verdict {
    status: &'static str,
    reason: Reason,
    message: String,
}

fn verdict(status: &'static str, reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict { status, reason, message: message.into() }
}

fn ready(report: Report<'_>) -> Verdict {
    match (report.record.filter(|_| report.is_good), report.problem) {
        (Some(_), _) if report.suspended => {
            verdict("True", Reason::Suspended, "spec.suspend is true: the token is not refreshed")
        }
        (None, None) if report.suspended => {
            verdict("False", Reason::Suspended, "spec.suspend is true and there is no valid token")
        }
        (Some(record), _) => verdict("True", Reason::TokenFresh, fresh(report.secret_name, record)),
        (None, Some(problem)) => verdict("False", problem.reason, problem.message.clone()),
        (None, None) => verdict("Unknown", Reason::Pending, "the first token is being fetched"),
    }
}

fn fresh(secret: &str, record: &Record) -> String {
    let checked = if record.signature_checked {
        ""
    } else {
        "; its signature is unknown: the issuer's keys could not be fetched, only the claims were checked"
    };
    format!("Secret {secret} holds a verified token{checked}")
}

fn degraded(report: Report<'_>) -> Verdict {
    if let Some(problem) = report.problem.filter(|_| report.is_good) {
        return verdict("True", problem.reason, problem.message.clone());
    }
    let Verdict { reason, .. } = ready(report);
    verdict("False", reason, "")
}

fn stalled(report: Report<'_>, conditions: &[Condition], now: Timestamp) -> Verdict {
    let long = |problem: &Problem| {
        // So it stays after a restart, which forgets since when.
        let already = find(conditions, "Stalled").is_some_and(|c| {
            c.status == "True"
                && c.reason == problem.reason.as_str()
                && c.observed_generation == report.generation
        });
        already || report.failing_since.is_some_and(|t| now.duration_since(t) >= STALL_AFTER)
    };
    match report.problem {
        Some(problem) if problem.reason.stalls() == Some(Stall::AtOnce) && !is_passing(problem) => {
            verdict("True", problem.reason, problem.message.clone())
        }
        Some(problem) if problem.reason.stalls() == Some(Stall::AfterTenMinutes) && long(problem) => {
            verdict("True", problem.reason, problem.message.clone())
        }
        _ => {
            let Verdict { reason, .. } = ready(report);
            verdict("False", reason, "")
        }
    }
}

fn is_passing(problem: &Problem) -> bool {
    matches!(problem.retry, Retry::Transient { .. })
}

fn find<'c>(conditions: &'c [Condition], type_: &str) -> Option<&'c Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) {
    let before = conditions.iter().position(|c| c.type_ == type_.as_str());
    // The API stores whole seconds: anything finer would look like a change at the next visit.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let last_transition_time = before
        .map(|i| &conditions[i])
        .filter(|c| c.status == verdict.status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.as_str().to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason.as_str().to_owned(),
        message: verdict.message,
        observed_generation: generation,
        last_transition_time,
    };
    match before {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}

/// The status without the words and times that change at every failed try.
fn essence(status: &IdTokenBindingStatus) -> IdTokenBindingStatus {
    let mut status = status.clone();
    status.next_refresh_time = None;
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}

/// Between two writes for the sake of a lasting failure's words and times.
const FAILING_PAUSE: SignedDuration = SignedDuration::from_mins(15);
/// Between two writes for the sake of the time of the next request alone.
const WELL_PAUSE: SignedDuration = SignedDuration::from_mins(1);
const STALL_AFTER: SignedDuration = SignedDuration::from_mins(10);

#[cfg(test)]
mod tests;
