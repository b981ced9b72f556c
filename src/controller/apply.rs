//! Output: carries out a decision. The only place that asks sources and writes Secrets.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    context::Context,
    credentials::InCluster,
    memory::Entry,
    obtain::obtain,
    revoke::{Revoked, revoke},
    secrets,
    status::status,
};
use crate::{
    api::{IdTokenBinding, Reason},
    clock,
    plan::{
        Attempts, Pause, Problem, Retry,
        decide::{
            Decision, Facts, REVOCATION, attempt_key, held_up, is_worth_writing, not_granted_since,
            refusal_key,
        },
        grant::Authority,
        refresh::{ask_again_at, refresh_at, retry_at},
        secret::{Observed, Ours, Owner, Record, conflict, desired, observe},
        validate::Wanted,
    },
    telemetry::metrics::{TokenRequest, Write},
    token::RawToken,
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
}

impl Outcome {
    /// Nothing else than this Secret.
    fn of(secret: Observed) -> Self {
        Self { secret, problem: None, next: None, look: None, not_granted_since: None }
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
            entry.attempts = facts.attempts; // it may have been known from the status alone
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
                Err(failed) => {
                    let problem = failed.problem;
                    let next = if problem.retry == Retry::OnNewCredential {
                        let key = refusal_key(wanted, credential);
                        entry.attempts = Some(Attempts::for_good(key, problem.clone()));
                        None
                    } else {
                        note_failure(entry, attempt_key(wanted, credential), owner, &problem)
                    };
                    let secret = failed.secret.unwrap_or(secret);
                    let not_granted_since = not_granted_since.filter(|_| matches!(secret, Observed::Ours(_)));
                    Outcome { problem: Some(problem), next, not_granted_since, ..Outcome::of(secret) }
                }
            }
        }
    }
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
    entry.ask_again = Some(Pause { key: attempt_key(wanted, credential), noted_at: now, until });
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

/// A token was minted.
#[allow(clippy::large_enum_variant)] // one a visit, and mostly the large one
enum Minted {
    /// It is in the Secret.
    Published(Ours),
    /// It is no newer than the one that is there, which expires at the given time.
    Same(Timestamp),
}

/// No token was published.
struct Failed {
    problem: Problem,
    /// What stands under the Secret's name, where that was found out anew.
    secret: Option<Observed>,
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self { problem, secret: None }
    }
}

/// A binding that has no conditions yet gets them before Google is asked, which may take long.
async fn first_seen_then_mint(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: &Wanted,
    facts: &Facts,
    entry: &mut Entry,
) -> Result<Minted, Failed> {
    // The newest status known: an old copy from the watch must not put Pending over a later word.
    let seen = binding.status.clone().unwrap_or_default();
    if entry.status(&seen).conditions.is_empty() {
        let pending = Outcome::of(Observed::Absent);
        if let Err(error) = status(ctx, binding, owner, Some(wanted), &pending, entry).await {
            tracing::warn!(%error, "the first status was not written");
        }
    }
    mint(ctx, owner, wanted, facts).await
}

async fn mint(ctx: &Context, owner: &Owner, wanted: &Wanted, facts: &Facts) -> Result<Minted, Failed> {
    let credentials = InCluster::new(ctx, owner);
    // The grant may have gone since the decision.
    let authority = Authority::of(wanted);
    let authorise = || ctx.authorise(owner, authority.as_ref());
    let obtained = obtain(&ctx.minter, &ctx.verifier, wanted, &credentials, authorise).await;
    let result = obtained.as_ref().map_or_else(|p| p.reason, |_| Reason::TokenFresh).as_str();
    ctx.metrics.token_requests.get_or_create(&TokenRequest { source: wanted.source.label(), result }).inc();
    let (token, record) = obtained?;
    if let Some(current) = facts.secret.current(&wanted.spec_hash, clock::now())
        && !is_worth_writing(Some(current), &record, facts.secret.carries(&wanted.secret))
    {
        return Ok(Minted::Same(current.life.expires));
    }
    publish(ctx, owner, wanted, &record, &token, facts.secret.clone()).await
}

/// Writes `token` over exactly the Secret that was observed. Where it is another by now, looks again, twice at most.
async fn publish(
    ctx: &Context,
    owner: &Owner,
    wanted: &Wanted,
    record: &Record,
    token: &RawToken,
    mut observed: Observed,
) -> Result<Minted, Failed> {
    let name = &wanted.secret.name;
    for _ in 0..3 {
        // The grant may have gone while Google, or the API server, was asked.
        ctx.authorise(owner, record.granted.as_ref()).await?;
        let existing: Option<ObjectMeta> = match &observed {
            Observed::Absent => None,
            Observed::Ours(ours) => Some(ours.metadata.clone()),
            Observed::Foreign(other) => {
                return Err(Failed { problem: conflict(name, other), secret: Some(observed) });
            }
        };
        let secret = desired(owner, &wanted.secret, record, existing.as_ref(), token.expose());
        let written = match existing {
            None => secrets::create(&ctx.once, &secret).await,
            Some(_) => secrets::replace(&ctx.once, &secret).await,
        };
        drop(secret);
        let result = if written.is_ok() { "written" } else { "failed" };
        ctx.metrics.secret_writes.get_or_create(&Write { result }).inc();
        match written {
            Ok(meta) => {
                let record = Some(record.clone());
                let ours = Ours { metadata: meta.metadata, record, intact: true };
                return Ok(Minted::Published(ours));
            }
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                let live = secrets::metadata(&ctx.client, &owner.namespace, name)
                    .await
                    .map_err(|e| write_failed(&e))?;
                observed = observe(live.as_ref().map(|m| &m.metadata), &owner.uid, false);
                let newer = observed
                    .record()
                    .filter(|r| r.spec_hash == record.spec_hash && r.credential == record.credential)
                    .filter(|r| r.life.expires > record.life.expires);
                if let Some(newer) = newer {
                    return Ok(Minted::Same(newer.life.expires));
                }
            }
            Err(error) => return Err(write_failed(&error).into()),
        }
    }
    Err(Problem::transient(
        Reason::SecretUnavailable,
        format!("Secret {name} changes all the time: three writes in a row met another version"),
    )
    .into())
}

fn write_failed(error: &secrets::Error) -> Problem {
    match error.code() {
        Some(422) => Problem::slow(
            Reason::SecretUnavailable,
            format!(
                "{error}: its type or content can't be changed (is it immutable?); delete it and it comes back"
            ),
        ),
        Some(403) => Problem::slow(
            Reason::SecretUnavailable,
            format!("{error}: check the operator's rights, quotas and admission policies in this namespace"),
        ),
        _ => Problem::transient(Reason::SecretUnavailable, error.to_string()),
    }
}

/// Notes that what has `key` failed; says when to try it again.
fn note_failure(entry: &mut Entry, key: String, owner: &Owner, problem: &Problem) -> Option<Timestamp> {
    let now = clock::now();
    let earlier = entry.attempts.take().filter(|a| a.pause.key == key).map_or(0, |a| a.failures);
    let failures = earlier.saturating_add(1);
    let until = retry_at(now, problem.retry, failures, &owner.uid)?;
    let pause = Pause { key, noted_at: now, until };
    entry.attempts = Some(Attempts { failures, pause, problem: problem.clone() });
    Some(until)
}
