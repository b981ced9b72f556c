//! Keeps the Secret of every `IdTokenBinding` filled.
//!
//! ```text
//! watches ─▶ reconcile: validate → dereference → decide → apply → status → wait
//!             (pure)      (input)   (pure)   (output)  (output)
//! ```

mod apply;
mod context;
mod dereference;
mod memory;
mod secrets;
mod status;
mod triggers;

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource as _,
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Recorder, Reporter},
        reflector::Store,
        watcher,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{
    apply::{Outcome, apply},
    context::Context,
    dereference::dereference,
    memory::Memory,
    status::status,
};
use crate::{
    api::{IdTokenBinding, Reason},
    clock,
    plan::{
        Problem,
        decide::{Decision, decide},
        refresh::{RECHECK, sleep_until},
        secret::Owner,
        status::stalls_at,
        validate::{Wanted, validate},
    },
    telemetry::metrics::Metrics,
    token::mint::Minter,
    verify::{
        GOOGLE_ISSUERS, Verifier,
        claims::{EmailRule, Expectation},
    },
};

/// What the controller works with.
#[derive(Debug)]
pub struct Parts {
    /// Asks the sources.
    pub minter: Minter,
    /// Checks what they give.
    pub verifier: Verifier,
    /// Counts.
    pub metrics: Metrics,
}

/// Runs until `stop`; then finishes what it has begun. `ready` becomes true when the caches are filled.
pub async fn run(
    client: Client,
    parts: Parts,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let bindings = Api::<IdTokenBinding>::all(client.clone());
    let (wake, mut woken) = mpsc::unbounded_channel();
    let controller = Controller::new(bindings, watcher::Config::default())
        .with_config(config)
        .reconcile_on(futures::stream::poll_fn(move |cx| woken.poll_recv(cx)))
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let store = controller.store();
    let caches = triggers::start(&client, &store, &wake, &stop);
    tokio::select! {
        filled = caches.wait_until_filled() => filled?,
        () = stop.cancelled() => return Ok(()),
    }
    let reporter = Reporter {
        controller: "idtoken.dev/controller".to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    let ctx = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        minter: parts.minter,
        verifier: parts.verifier,
        caches,
        memory: Memory::default(),
        metrics: parts.metrics,
    });
    tokio::spawn(forget_the_gone(ctx.clone(), store, stop.clone()));
    ready.send_replace(true);
    tracing::info!("watching bindings");
    controller
        .run(guarded, |_, _, _| Action::requeue(AFTER_ERROR), ctx)
        .for_each(|_| std::future::ready(()))
        .await;
    ready.send_replace(false);
    Ok(())
}

/// What a token of `wanted` must say. All sources of this version have Google as issuer.
fn expectation<'a>(wanted: &'a Wanted, email: EmailRule<'a>) -> Expectation<'a> {
    let audience = wanted.audience.as_str();
    Expectation { issuers: GOOGLE_ISSUERS, keys_of: GOOGLE_ISSUERS[0], audience, email }
}

/// Why a visit ended early. Everything else ends in the binding's status.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Dereference(#[from] secrets::Error),
    #[error(transparent)]
    Status(#[from] status::Error),
    #[error("the visit panicked; this is a bug")]
    Panic,
}

/// A panic would otherwise end the whole controller with the one binding that caused it.
async fn guarded(binding: Arc<IdTokenBinding>, ctx: Arc<Context>) -> Result<Action, Error> {
    let visit = AssertUnwindSafe(reconcile(&binding, &ctx)).catch_unwind().await.unwrap_or(Err(Error::Panic));
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    let namespace = binding.metadata.namespace.as_deref().unwrap_or_default();
    visit.inspect_err(|error| tracing::warn!(namespace, name, %error, "a visit failed; it is tried again"))
}

async fn reconcile(binding: &IdTokenBinding, ctx: &Context) -> Result<Action, Error> {
    let Some(owner) = owner(binding) else { return Ok(Action::await_change()) };
    let mut entry = ctx.memory.of(&owner.uid);
    let valid = validate(binding);
    let outcome = match &valid {
        Err(problem) => status::refused(problem.clone()),
        Ok(wanted) => visit(ctx, binding, &owner, wanted, &mut entry).await?,
    };
    let now = clock::now();
    let written = status(ctx, binding, &owner, valid.as_ref().ok(), &outcome, &mut entry, now).await;
    let since = entry.failing_since(outcome.problem.as_ref(), binding.metadata.generation, now);
    ctx.memory.keep(&owner.uid, entry);
    written?;
    Ok(Action::requeue(wake_after(&outcome, since, clock::now())))
}

async fn visit(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: &Wanted,
    entry: &mut memory::Entry,
) -> Result<Outcome, Error> {
    let seen = binding.status.clone().unwrap_or_default();
    let known = entry.status(&seen).clone();
    let facts = match dereference(ctx, owner, wanted, entry, &known).await {
        Ok(facts) => facts,
        // While the last word is that the token is good, it stays the last word: the visit is simply tried again.
        Err(error) if known.expiration_time.is_some_and(|at| at > clock::now()) => return Err(error.into()),
        Err(error) => {
            let problem = Problem::transient(Reason::SecretUnavailable, error.to_string());
            return Ok(Outcome {
                next: clock::now().checked_add(AFTER_ERROR).ok(),
                ..status::refused(problem)
            });
        }
    };
    let decision = decide(wanted, &facts, clock::now());
    tracing::debug!(namespace = owner.namespace, name = owner.name, ?decision, "decided");
    if known.conditions.is_empty() && matches!(decision, Decision::Mint { .. }) {
        status::pending(ctx, binding, owner, wanted, entry, clock::now()).await?;
    }
    Ok(apply(ctx, owner, wanted, facts, decision, entry).await)
}

/// The binding as owner; `None` for one that is on its way out.
fn owner(binding: &IdTokenBinding) -> Option<Owner> {
    let meta = binding.meta();
    if meta.deletion_timestamp.is_some() {
        return None;
    }
    Some(Owner { name: meta.name.clone()?, namespace: meta.namespace.clone()?, uid: meta.uid.clone()? })
}

/// Until something is due: the next request, the end of the token, or the moment at which a failure counts as stalled.
fn wake_after(outcome: &Outcome, failing_since: Option<Timestamp>, now: Timestamp) -> Duration {
    let expiry = outcome.secret.record().map(|r| r.life.expires).filter(|t| *t > now);
    let stall = outcome.problem.as_ref().and_then(|p| stalls_at(failing_since, p, now));
    let due = [outcome.next, expiry, stall].into_iter().flatten().min();
    let sleep = due.map_or(RECHECK.unsigned_abs(), |at| sleep_until(now, at));
    sleep.max(Duration::from_millis(50))
}

async fn forget_the_gone(ctx: Arc<Context>, bindings: Store<IdTokenBinding>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(FORGET_EVERY)).await.is_some() {
        let alive: HashSet<String> = bindings.state().iter().filter_map(|b| b.metadata.uid.clone()).collect();
        ctx.memory.prune(&alive);
    }
}

/// Visits under way at once. Nearly all wait for Google or for the API server.
const CONCURRENCY: u16 = 128;
const AFTER_ERROR: Duration = Duration::from_secs(5);
const FORGET_EVERY: Duration = Duration::from_secs(600);
