//! Output: carries out a decision.

use std::time::Duration;

use futures::future::join;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::{
    context::Context,
    memory::{Entry, seen},
    publish::{Failed, Minted, mint},
    revoke::{Revoked, revoke},
    status::status,
};
use crate::{
    api::{IdTokenBinding, Reason},
    clock,
    plan::{
        Attempts, Pause, Problem, Retry,
        decide::{Decision, Facts, REVOCATION, attempt_key, held_up, not_granted_since, refusal_key},
        refresh::{ask_again_at, refresh_at, retry_at},
        secret::{Observed, Ours, Owner},
        status::is_told,
        validate::Wanted,
    },
};

/// What came of a visit.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The Secret as it stands now.
    pub secret: Observed,
    /// What went wrong.
    pub problem: Option<Problem>,
    /// When the source is asked next.
    pub next: Option<Timestamp>,
    /// When to look again for another reason.
    pub look: Option<Timestamp>,
    /// Since when no grant allows what stands in the Secret.
    pub not_granted_since: Option<Timestamp>,
    /// What was to be done is put off, or not for this process to do any more: which changes nothing that is worth telling.
    pub put_off: bool,
}

impl Outcome {
    /// Nothing else than this Secret.
    fn of(secret: Observed) -> Self {
        Self { secret, problem: None, next: None, look: None, not_granted_since: None, put_off: false }
    }
}

/// Carries out `decision`, and notes in `entry` what the next visit should know.
pub(super) async fn apply(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: &Wanted,
    facts: Facts,
    decision: Decision,
    entry: &mut Entry,
) -> Outcome {
    let secret = facts.secret.clone();
    let not_granted_since = not_granted_since(&facts, clock::now());
    let as_it_is = Outcome { not_granted_since, ..Outcome::of(secret.clone()) };
    match decision {
        Decision::Rest => as_it_is,
        Decision::Keep { next } => {
            entry.attempts = None;
            Outcome { next: Some(next), ..as_it_is }
        }
        Decision::Wait { problem, until } => {
            let (next, look) = if facts.permitted.is_ok() { (until, None) } else { (None, until) };
            entry.attempts = facts.attempts.map(Box::new); // it may have been known from the status alone
            Outcome { problem: Some(problem), next, look, ..as_it_is }
        }
        Decision::Refuse(problem) => {
            let look = look_again(&problem, clock::now());
            Outcome { problem: Some(problem), look, ..as_it_is }
        }
        Decision::Revoke(problem) => {
            take_back(ctx, owner, &wanted.secret.name, Some(wanted), problem, as_it_is, entry).await
        }
        // What is there counts for nothing.
        Decision::Held(problem) => Outcome { problem: Some(problem), ..Outcome::of(Observed::Absent) },
        Decision::Mint { restores } => {
            let credential = facts.credential.as_deref();
            match first_seen_then_mint(ctx, binding, owner, wanted, &facts, entry).await {
                Ok(Minted::Published(ours)) => published(entry, wanted, credential, owner, ours, restores),
                Ok(Minted::Same(expires)) => {
                    entry.attempts = None;
                    let next = ask_later(entry, wanted, credential, owner, expires, clock::now());
                    Outcome { next: Some(next), ..as_it_is }
                }
                Ok(Minted::Dropped) => Outcome { put_off: true, ..as_it_is },
                Ok(Minted::Later(pause)) => {
                    let now = clock::now();
                    let next = now.checked_add(pause).ok();
                    let has_token = secret.current(&wanted.spec_hash, now).is_some();
                    let is_new = !is_told(entry.status(seen(binding)));
                    let problem = (!has_token && !is_new).then(held_back);
                    Outcome { next, problem, put_off: has_token, ..as_it_is }
                }
                Err(failed) => not_published(entry, wanted, credential, owner, failed, as_it_is),
            }
        }
    }
}

/// Notes that no token was published, and says when that is tried again.
fn not_published(
    entry: &mut Entry,
    wanted: &Wanted,
    credential: Option<&str>,
    owner: &Owner,
    failed: Failed,
    as_it_is: Outcome,
) -> Outcome {
    let problem = failed.problem;
    let key = attempt_key(wanted, credential);
    let next = if problem.retry == Retry::OnNewCredential {
        let key = refusal_key(wanted, credential);
        entry.attempts = Some(Box::new(Attempts::for_good(key, problem.clone())));
        None
    } else if let Some(until) = failed.until {
        note_pause(entry, key, until, &problem);
        Some(until)
    } else {
        note_failure(entry, key, owner, &problem)
    };
    let secret = failed.secret.unwrap_or(as_it_is.secret);
    let not_granted_since = as_it_is.not_granted_since.filter(|_| matches!(secret, Observed::Ours(_)));
    Outcome { problem: Some(problem), next, not_granted_since, ..Outcome::of(secret) }
}

/// Carries out `decision` on a binding whose spec is invalid, so that only its last Secret is known.
pub(super) async fn apply_invalid(
    ctx: &Context,
    owner: &Owner,
    facts: Facts,
    decision: Decision,
    entry: &mut Entry,
) -> Outcome {
    let not_granted_since = not_granted_since(&facts, clock::now());
    let as_it_is = Outcome { not_granted_since, ..Outcome::of(Observed::Absent) };
    match (decision, &facts.secret) {
        (Decision::Revoke(problem), Observed::Ours(ours)) => {
            let name = ours.metadata.name.as_deref().unwrap_or_default();
            take_back(ctx, owner, name, None, problem, as_it_is, entry).await
        }
        (Decision::Wait { problem, until }, _) => Outcome { problem: Some(problem), look: until, ..as_it_is },
        (Decision::Refuse(problem) | Decision::Held(problem) | Decision::Revoke(problem), _) => {
            Outcome { problem: Some(problem), ..as_it_is }
        }
        (Decision::Rest | Decision::Keep { .. } | Decision::Mint { .. }, _) => as_it_is,
    }
}

/// Removes the Secret, if it is really not granted: `problem` says what is missing.
async fn take_back(
    ctx: &Context,
    owner: &Owner,
    secret: &str,
    wanted: Option<&Wanted>,
    problem: Problem,
    as_it_is: Outcome,
    entry: &mut Entry,
) -> Outcome {
    let problem = match revoke(ctx, owner, secret, wanted).await {
        Ok(Revoked::Gone(now)) => {
            entry.attempts = None;
            return Outcome { problem: Some(problem), ..Outcome::of(now) };
        }
        Ok(Revoked::Held(held)) => {
            entry.attempts = None;
            return Outcome { problem: Some(held_up(&held, &problem)), ..Outcome::of(Observed::Absent) };
        }
        // Looked at again with back-off, until the watches have caught up.
        Ok(Revoked::Allowed) => Problem { retry: Retry::Transient { retry_after: None }, ..problem },
        Err(problem) => problem,
    };
    let look = note_failure(entry, REVOCATION.to_owned(), owner, &problem);
    Outcome { problem: Some(problem), look, ..as_it_is }
}

/// Notes that a token was published, and says when the next one is due.
fn published(
    entry: &mut Entry,
    wanted: &Wanted,
    credential: Option<&str>,
    owner: &Owner,
    ours: Ours,
    restores: bool,
) -> Outcome {
    let now = clock::now();
    entry.attempts = None;
    entry.ask_again = None;
    if restores {
        entry.restored(now);
    }
    let life = ours.record.as_ref().map(|r| r.life);
    let mut next = life.map(|life| refresh_at(life, wanted.refresh_percent, &owner.uid));
    if let Some(life) = life.filter(|_| next.is_some_and(|next| next <= now)) {
        // Due as soon as it is there: our clock is fast, or the source hands out old tokens.
        next = Some(ask_later(entry, wanted, credential, owner, life.expires, now));
    }
    Outcome { next, ..Outcome::of(Observed::Ours(ours)) }
}

/// Notes that the source is not to be asked again for a while, and says until when.
fn ask_later(
    entry: &mut Entry,
    wanted: &Wanted,
    credential: Option<&str>,
    owner: &Owner,
    expires: Timestamp,
    now: Timestamp,
) -> Timestamp {
    let until = ask_again_at(now, expires, &owner.uid);
    entry.ask_again = Some(Box::new(Pause { key: attempt_key(wanted, credential), noted_at: now, until }));
    until
}

/// Not every Secret in our way is watched: that it went is found out by looking.
fn look_again(problem: &Problem, now: Timestamp) -> Option<Timestamp> {
    let pause = match (problem.reason, problem.retry) {
        (Reason::SecretConflict, Retry::Transient { .. }) => SignedDuration::from_secs(2),
        (Reason::SecretConflict, _) => SignedDuration::from_mins(1),
        (Reason::SecretUnavailable, _) => SignedDuration::from_secs(5),
        // The grants could not be read.
        (Reason::SourceUnavailable, _) => SignedDuration::from_secs(10),
        _ => return None,
    };
    now.saturating_add(pause).ok()
}

/// A binding that has no conditions yet gets them when its first token takes a while; mostly the token is there before.
async fn first_seen_then_mint(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: &Wanted,
    facts: &Facts,
    entry: &mut Entry,
) -> Result<Minted, Failed> {
    // The newest status known: an old copy from the watch must not put Pending over a later word.
    let is_told = is_told(entry.status(seen(binding)));
    let mut minting = Box::pin(mint(ctx, owner, wanted, facts));
    if is_told {
        return minting.await;
    }
    if let Ok(minted) = timeout(PENDING, minting.as_mut()).await {
        return minted;
    }
    let pending = Outcome::of(Observed::Absent);
    let told = async {
        if let Err(error) = status(ctx, binding, owner, Some(wanted), &pending, entry).await {
            tracing::warn!(%error, "the first status was not written");
        }
    };
    join(minting, told).await.0
}

/// The problem of a binding without a token, as long as Google's quota does not allow to ask for one.
fn held_back() -> Problem {
    Problem::transient(
        Reason::QuotaExceeded,
        "Google has refused requests because of its quota: they are sent more slowly, and this one waits for its turn",
    )
}

/// Notes that what has `key` is not tried before `until`.
fn note_pause(entry: &mut Entry, key: String, until: Timestamp, problem: &Problem) {
    let failures = failures(entry.attempts.as_deref(), &key, problem);
    let pause = Pause { key, noted_at: clock::now(), until };
    entry.attempts = Some(Box::new(Attempts { failures, pause, problem: problem.clone() }));
}

/// Notes that what has `key` failed; says when to try it again.
fn note_failure(entry: &mut Entry, key: String, owner: &Owner, problem: &Problem) -> Option<Timestamp> {
    let failures = failures(entry.attempts.as_deref(), &key, problem);
    let until = retry_at(clock::now(), problem.retry, failures, &owner.uid);
    if let Some(until) = until {
        note_pause(entry, key, until, problem);
    } else {
        entry.attempts = None;
    }
    until
}

/// How often what has `key` has failed in a row with this `problem`. Whose Secret can't be written has a token: what its source failed
/// before, in an outage perhaps, is over and must not make the pause before the next write a long one.
fn failures(before: Option<&Attempts>, key: &str, problem: &Problem) -> u32 {
    let is_write = |problem: &Problem| problem.reason == Reason::SecretUnavailable;
    let in_a_row = before
        .filter(|before| before.pause.key == key && is_write(&before.problem) == is_write(problem))
        .map_or(0, |before| before.failures);
    in_a_row.saturating_add(1)
}

/// After so long without a token a binding gets its first conditions, which then are one write more.
const PENDING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_after_an_outage_of_the_source_is_its_first_failure() {
        let unavailable = Problem::transient(Reason::SourceUnavailable, "no answer");
        let conflict = Problem::transient(Reason::SecretUnavailable, "another version");
        let after = |problem: &Problem| Attempts {
            failures: 9,
            pause: Pause {
                key: "k".to_owned(),
                noted_at: Timestamp::UNIX_EPOCH,
                until: Timestamp::UNIX_EPOCH,
            },
            problem: problem.clone(),
        };
        let (outage, writes) = (after(&unavailable), after(&conflict));
        assert_eq!(failures(Some(&outage), "k", &unavailable), 10);
        assert_eq!(failures(Some(&outage), "k", &conflict), 1);
        assert_eq!(failures(Some(&writes), "k", &conflict), 10);
        assert_eq!(failures(Some(&writes), "k", &unavailable), 1);
        assert_eq!(failures(Some(&outage), "another", &unavailable), 1);
        assert_eq!(failures(None, "k", &unavailable), 1);
    }
}
