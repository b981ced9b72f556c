//! A visit of a binding: what is there, what is to be done, and when to come again.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::Resource as _;
use tokio::time::timeout;

use super::{
    apply::{Outcome, apply, apply_invalid},
    context::Context,
    dereference::{dereference, dereference_invalid},
    memory::{Entry, seen},
    queue::{Name, Visit},
    secrets,
    status::{self, status},
};
use crate::{
    api::IdTokenBinding,
    clock,
    plan::{
        decide::{Decision, decide, quiet_for, settle},
        refresh::{RECHECK, sleep_until},
        secret::Owner,
        status::stalls_at,
        turns::Rank,
        validate::validate,
    },
};

/// Why a visit ended early. Everything else ends in the binding's status.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Dereference(#[from] secrets::Error),
    #[error(transparent)]
    Status(#[from] status::Error),
    #[error("the visit panicked; this is a bug")]
    Panic,
    #[error("the visit did not come to its end within {} s and was given up; this is a bug", LONGEST.as_secs())]
    Endless,
    #[error("this process is no longer the leader")]
    Deposed,
}

/// Makes a visit, and says when the next one is due.
pub(super) async fn visit(ctx: Arc<Context>, turn: Visit) {
    let pause = guarded(&ctx, turn.name()).await;
    turn.ends(pause.unwrap_or(Some(AFTER_ERROR)));
}

/// Runs one visit, with what is remembered of its binding, if this process is the leader and as long as it is. A panic is one binding's
/// alone.
async fn guarded(ctx: &Context, name: &Name) -> Result<Option<Duration>, Error> {
    let Some(binding) = ctx.bindings.get(&name.namespace, &name.name) else { return Ok(None) };
    let Some(owner) = owner(&binding) else { return Ok(None) };
    // Who leads next visits all of them.
    let Some(pass) = ctx.fence.pass() else { return Ok(None) };
    let mut entry = ctx.memory.of(&owner.uid, pass.term());
    entry.saw_status(seen(&binding));
    let visit = confined(reconcile(ctx, &binding, &owner, &mut entry));
    let visit = Box::pin(pass.protect(visit)).await;
    if visit.is_some() {
        // The watch may have been faster than the answer to the write.
        if entry.written().is_some()
            && let Some(now) = ctx.bindings.get(&name.namespace, &name.name)
        {
            entry.saw_status(seen(&now));
        }
        ctx.memory.keep(&owner.uid, entry);
    }
    let Owner { namespace, name, .. } = owner;
    visit
        .unwrap_or(Err(Error::Deposed))
        .inspect_err(|error| tracing::warn!(namespace, name, %error, "a visit failed; it is tried again"))
}

/// Keeps a panic of `visit`, and a `visit` that comes to no end, from being more than its own failure.
async fn confined<T>(visit: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(LONGEST, AssertUnwindSafe(visit).catch_unwind()).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(_)) => Err(Error::Panic),
        Err(_) => Err(Error::Endless),
    }
}

/// How urgent a visit is, as far as that can be told without a look at anything else; `None`: there is no such binding, or it is for
/// another process to visit.
pub(super) fn rank(ctx: &Context, name: &Name, asked: Duration) -> Option<Rank> {
    let pass = ctx.fence.pass()?;
    let (uid, expires) = ctx.bindings.glance(&name.namespace, &name.name)?;
    let entry = ctx.memory.of(&uid, pass.term());
    let expires = entry.written().map_or(expires, |status| status.expiration_time);
    let left = expires.and_then(|at| at.duration_since(clock::now()).try_into().ok());
    Some(Rank::of(left, entry.attempts.is_some(), asked))
}

async fn reconcile(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    entry: &mut Entry,
) -> Result<Option<Duration>, Error> {
    let wanted = validate(binding);
    let outcome = match &wanted {
        Err(problem) => {
            let facts = dereference_invalid(ctx, binding, owner, problem, entry).await;
            let decision = settle(Decision::Refuse(problem.clone()), &facts, clock::now());
            apply_invalid(ctx, owner, facts, decision, entry).await
        }
        Ok(wanted) => {
            let facts = dereference(ctx, binding, owner, wanted, entry).await?;
            let decision = decide(wanted, &facts, clock::now());
            apply(ctx, binding, owner, wanted, facts, decision, entry).await
        }
    };
    entry.note_loss(outcome.not_granted_since);
    if let Some(until) = quiet_until(binding, &outcome, entry, ctx.grace, clock::now()) {
        return Ok(Some(sleep_until(clock::now(), until).max(SHORTEST)));
    }
    if !outcome.put_off {
        status(ctx, binding, owner, wanted.as_ref().ok(), &outcome, entry).await?;
    }
    Ok(Some(wait(&outcome, entry, ctx.grace, clock::now())))
}

/// The binding as owner; `None` for one that is on its way out.
fn owner(binding: &IdTokenBinding) -> Option<Owner> {
    let meta = binding.meta();
    if meta.deletion_timestamp.is_some() {
        return None;
    }
    Some(Owner { name: meta.name.clone()?, namespace: meta.namespace.clone()?, uid: meta.uid.clone()? })
}

/// Until something is due: the next request, the end of the token or of a grace, or the moment at which a failure counts as
/// stalled.
fn wait(outcome: &Outcome, entry: &Entry, grace: SignedDuration, now: Timestamp) -> Duration {
    let expiry = outcome.secret.record().map(|r| r.life.expires).filter(|t| *t > now);
    let removal =
        outcome.not_granted_since.and_then(|since| since.checked_add(grace).ok()).filter(|t| *t > now);
    let stall = outcome.problem.as_ref().and_then(|p| stalls_at(entry.failing(), p, now));
    let due = [outcome.next, outcome.look, expiry, removal, stall].into_iter().flatten().min();
    let sleep = due.map_or(RECHECK.unsigned_abs(), |at| sleep_until(now, at));
    sleep.max(SHORTEST)
}

/// Until when a loss is not told yet; `None`: it is told, or there is none.
fn quiet_until(
    binding: &IdTokenBinding,
    outcome: &Outcome,
    entry: &Entry,
    grace: SignedDuration,
    now: Timestamp,
) -> Option<Timestamp> {
    if entry.status(seen(binding)).not_granted_since.is_some() {
        return None;
    }
    let until = outcome.not_granted_since?.checked_add(quiet_for(grace)).ok()?;
    (now < until).then_some(until)
}

/// Beyond every time-out that a visit has, taken together; so that one which hangs all the same holds up its own binding only.
const LONGEST: Duration = Duration::from_secs(10 * 60);
const SHORTEST: Duration = Duration::from_millis(50);
const AFTER_ERROR: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_visit_that_hangs_is_given_up_after_ten_minutes_and_a_slow_one_is_not() {
        let begun = Instant::now();
        let error = confined(pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the visit did not come to its end within 600 s and was given up; this is a bug"
        );
        assert_eq!(begun.elapsed().as_secs(), 600);
        let slow = async {
            sleep(Duration::from_secs(599)).await;
            Ok(7)
        };
        assert_eq!(confined(slow).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_visit_that_panics_or_fails_says_which() {
        let panics = async { if ready(true).await { panic!("planted") } else { Ok(()) } };
        assert_eq!(confined(panics).await.unwrap_err().to_string(), "the visit panicked; this is a bug");
        let fails = ready(Err::<(), _>(Error::Deposed));
        assert_eq!(confined(fails).await.unwrap_err().to_string(), "this process is no longer the leader");
    }
}
