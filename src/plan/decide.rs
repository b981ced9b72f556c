//! What to do about a binding now. A pure function of what is wanted, what was seen, and the time.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Attempts, Pause, Problem, Retry,
    refresh::refresh_at,
    secret::{Observed, Record, conflict},
    source::{Source, invalid},
    validate::{SecretSpec, Wanted},
};
use crate::api::Reason;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `metadata.uid` of the binding.
    pub uid: String,
    /// What stands under the Secret's name.
    pub secret: Observed,
    /// Whether we have written a Secret for this binding before.
    pub was_published: bool,
    /// Whether it may go on: a grant allows what is wanted, and the Secret could be looked at.
    pub permitted: Result<(), Problem>,
    /// What grants say of what stands in our Secret, which may be another thing than what is wanted.
    pub standing: Standing,
    /// Which state the binding's own credential is in; `None`: the source has none.
    pub credential: Option<String>,
    /// What was tried before and failed.
    pub attempts: Option<Attempts>,
    /// The source gave the same token again: not to be asked before this time.
    pub ask_again: Option<Pause>,
    /// The Secret was taken away or changed by somebody else again and again: not to be restored before this time.
    pub restore_not_before: Option<Timestamp>,
    /// Since when no grant allows what stands in the Secret, as noted before.
    pub not_granted_since: Option<Timestamp>,
    /// How long a Secret stays that no grant allows any more.
    pub grace: SignedDuration,
}

/// What grants say of what stands in our Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// One allows it, or it needs none, or nothing of ours is there.
    Allowed,
    /// None allows it any more.
    Lost(Problem),
    /// The Secret, or the grants, could not be looked at.
    Unknown,
}

impl Standing {
    /// After asking the grants.
    #[must_use]
    pub fn of(asked: &Result<(), Problem>) -> Self {
        match asked {
            Ok(()) => Self::Allowed,
            Err(problem) if problem.reason == Reason::NotGranted => Self::Lost(problem.clone()),
            Err(_) => Self::Unknown,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing at all: the binding is suspended.
    Rest,
    /// Nothing until the given time: the token is good.
    Keep {
        /// When to ask for the next one.
        next: Timestamp,
    },
    /// Nothing until the given time: it failed before.
    Wait {
        /// What failed.
        problem: Problem,
        /// When to try again; `None`: when an object changes.
        until: Option<Timestamp>,
    },
    /// No token: it must not or can't be.
    Refuse(Problem),
    /// No token, and what is in our Secret was allowed to stay for long enough: look once more at what is really granted, and
    /// remove the Secret.
    Revoke(Problem),
    /// Our Secret, which no grant allows any more, is being deleted, and something holds it up: it counts as gone.
    Held(Problem),
    /// Get a token and publish it.
    Mint {
        /// The Secret was ours and is gone or changed.
        restores: bool,
    },
}

/// Decides.
#[must_use]
pub fn decide(wanted: &Wanted, facts: &Facts, now: Timestamp) -> Decision {
    settle(plan(wanted, facts, now), facts, now)
}

/// What is `planned` by what the binding asks for, unless what stands in its Secret decides: that stays for the grace when no
/// grant allows it any more, and then goes, whatever else holds.
#[must_use]
pub fn settle(planned: Decision, facts: &Facts, now: Timestamp) -> Decision {
    let (Standing::Lost(lost), Observed::Ours(ours)) = (&facts.standing, &facts.secret) else {
        return planned;
    };
    let told = match &planned {
        Decision::Refuse(problem) | Decision::Wait { problem, .. } => problem.clone(),
        _ => lost.clone(),
    };
    // One that may be made anew is: what is allowed takes the place of what is not.
    if ours.metadata.deletion_timestamp.is_some() && !matches!(planned, Decision::Mint { .. }) {
        return Decision::Held(held_up(&ours.metadata, &told));
    }
    let is_over = |since| now.duration_since(since) >= facts.grace;
    if !not_granted_since(facts, now).is_some_and(is_over) {
        // Somebody who rests is told, too.
        return if planned == Decision::Rest { Decision::Refuse(told) } else { planned };
    }
    match facts.attempts.as_ref().filter(|a| a.pause.holds(REVOCATION, now)) {
        Some(attempts) => {
            Decision::Wait { problem: attempts.problem.clone(), until: Some(attempts.pause.until) }
        }
        None => Decision::Revoke(told),
    }
}

/// The `problem` of a binding whose `secret` was removed since no grant allows it, but is still there.
#[must_use]
pub fn held_up(secret: &ObjectMeta, problem: &Problem) -> Problem {
    let name = secret.name.as_deref().unwrap_or_default();
    let finalizers = secret.finalizers.clone().unwrap_or_default().join(", ");
    let message = format!(
        "no grant allows Secret {name} any more and it was deleted, but its finalizers keep it readable: {finalizers}; remove them, \
         or see to it that whoever set them does. {}",
        problem.message
    );
    Problem { message, ..problem.clone() }
}

/// By what the binding asks for.
fn plan(wanted: &Wanted, facts: &Facts, now: Timestamp) -> Decision {
    let not_granted = facts.permitted.as_ref().err().filter(|problem| problem.reason == Reason::NotGranted);
    if let Some(problem) = not_granted.filter(|_| !matches!(facts.secret, Observed::Foreign(_))) {
        return Decision::Refuse(problem.clone());
    }
    if wanted.suspend {
        return Decision::Rest;
    }
    if let Observed::Foreign(owner) = &facts.secret {
        return Decision::Refuse(conflict(&wanted.secret.name, owner));
    }
    if let Err(problem) = &facts.permitted {
        return Decision::Refuse(problem.clone());
    }
    let key = attempt_key(wanted, facts.credential.as_deref());
    if let Some(record) = facts.secret.current(&wanted.spec_hash, now) {
        let planned = refresh_at(record.life, wanted.refresh_percent, &facts.uid);
        let up_to_date = is_handled(wanted, Some(record)) && record.credential == facts.credential;
        if now < planned && up_to_date && facts.secret.carries(&wanted.secret) {
            return Decision::Keep { next: planned };
        }
        if let Some(pause) = facts.ask_again.as_ref().filter(|p| p.holds(&key, now)) {
            return Decision::Keep { next: pause.until };
        }
    }
    let refusal = refusal_key(wanted, facts.credential.as_deref());
    let of = |attempts: &Attempts| {
        if attempts.problem.retry == Retry::OnNewCredential { &refusal } else { &key }
    };
    if let Some(attempts) = facts.attempts.as_ref().filter(|a| a.pause.holds(of(a), now)) {
        let until = Some(attempts.pause.until).filter(|until| *until < Timestamp::MAX);
        return Decision::Wait { problem: attempts.problem.clone(), until };
    }
    let restores = match &facts.secret {
        Observed::Absent => facts.was_published,
        Observed::Ours(ours) => !ours.intact,
        Observed::Foreign(_) => false,
    };
    match facts.restore_not_before.filter(|t| restores && now < *t) {
        Some(until) => {
            Decision::Wait { problem: fought_over(&wanted.secret.name, until), until: Some(until) }
        }
        None => Decision::Mint { restores },
    }
}

/// Since when no grant allows what stands in our Secret, as of this look; `None`: a grant does, or nothing of ours is there, or
/// it is being deleted already.
#[must_use]
pub fn not_granted_since(facts: &Facts, now: Timestamp) -> Option<Timestamp> {
    match (&facts.standing, &facts.secret) {
        (Standing::Lost(_), Observed::Ours(ours)) => {
            // A note from the future: the clock was set back.
            let noted = facts.not_granted_since.filter(|since| *since <= now);
            let first = || Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
            ours.metadata.deletion_timestamp.is_none().then(|| noted.unwrap_or_else(first))
        }
        (Standing::Unknown, _) => facts.not_granted_since,
        _ => None,
    }
}

/// How long a loss is kept quiet, so that a grant that is deleted and made again is no news; nothing is minted meanwhile.
#[must_use]
pub fn quiet_for(grace: SignedDuration) -> SignedDuration {
    (grace / 2).min(QUIET)
}

const QUIET: SignedDuration = SignedDuration::from_secs(5);

/// What tells tries to remove a Secret from tries to fill it (see [`attempt_key`]).
pub const REVOCATION: &str = "revocation";

/// What tells two tries apart: another spec, another `credential`, other labels or another forced refresh are tried at once.
#[must_use]
pub fn attempt_key(wanted: &Wanted, credential: Option<&str>) -> String {
    let SecretSpec { labels, annotations, .. } = &wanted.secret;
    let requested = wanted.refresh_requested.as_deref().unwrap_or_default();
    let credential = credential.unwrap_or_default();
    format!("{}/{credential}/{requested}/{labels:?}{annotations:?}", wanted.spec_hash)
}

/// What tells two tries of a credential that Google refused apart: another spec, another `credential` or another forced refresh.
#[must_use]
pub fn refusal_key(wanted: &Wanted, credential: Option<&str>) -> String {
    let requested = wanted.refresh_requested.as_deref().unwrap_or_default();
    format!("{}/{}/{requested}", wanted.spec_hash, credential.unwrap_or_default())
}

/// Refuses to impersonate the operator's own account: Google discourages it, and a grant for that account would
/// be the operator itself by another name.
pub fn refuse_self(source: &Source, operator: &str) -> Result<(), Problem> {
    let (target, delegates) = match source {
        Source::Impersonation { service_account, delegates } => (service_account, delegates.as_slice()),
        Source::SignedJwt { service_account } => (service_account, [].as_slice()),
        _ => return Ok(()),
    };
    let itself = |email: &str| email.eq_ignore_ascii_case(operator);
    if itself(target.as_str()) || delegates.iter().any(|d| itself(d.as_str())) {
        return Err(Problem::on_change(
            Reason::SelfImpersonation,
            format!(
                "{operator} is the operator's own identity and is not impersonated; use source metadataServer with a grant \
                 for identity operator, or another service account"
            ),
        ));
    }
    Ok(())
}

/// Refuses to sign a JWT for an API of Google's, in the public universe or in `universe`: it would be an access credential.
pub fn refuse_api(wanted: &Wanted, universe: &str) -> Result<(), Problem> {
    if !matches!(wanted.source, Source::SignedJwt { .. }) || !wanted.audience.is_google_api(universe) {
        return Ok(());
    }
    let mend =
        "name the URL of your own service: a JWT signed for an API of Google's is a credential for that API";
    Err(invalid("spec.audience", wanted.audience.as_str(), mend))
}

/// Whether a token that was just minted is to be written over `current`: not when it is the same or an older one got by the
/// same credential. The same one is, where it brings something else along: the mark of a forced refresh, or (unless it `carries` them already) labels.
#[must_use]
pub fn is_worth_writing(current: Option<&Record>, minted: &Record, carries: bool) -> bool {
    current.is_none_or(|c| {
        let brings = minted.refresh_handled != c.refresh_handled || !carries;
        minted.credential != c.credential
            || minted.life.expires > c.life.expires
            || (minted.life.expires == c.life.expires && brings)
    })
}

/// Whether `record` answers the forced refresh that was asked for, if one was.
#[must_use]
pub fn is_handled(wanted: &Wanted, record: Option<&Record>) -> bool {
    wanted.refresh_requested.is_none()
        || record.is_some_and(|record| wanted.refresh_requested == record.refresh_handled)
}

fn fought_over(name: &str, until: Timestamp) -> Problem {
    Problem::transient(
        Reason::SecretConflict,
        format!(
            "Secret {name} is deleted or changed by somebody else again and again; it is restored at {until}"
        ),
    )
}

#[cfg(test)]
mod tests;
