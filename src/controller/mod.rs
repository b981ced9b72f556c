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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    apply::{Outcome, apply},
    context::Context,
    dereference::dereference,
    memory::{Entry, Memory},
    status::status,
};
use crate::{
    api::IdTokenBinding,
    clock,
    plan::{
        decide::decide,
        refresh::{RECHECK, sleep_until},
        secret::Owner,
        status::stalls_at,
        validate::{Wanted, validate},
    },
    telemetry::{
        health::{Condition, Health},
        metrics::Metrics,
    },
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

/// Runs until `stop`; then finishes what it has begun. Tells `health` when the caches are filled.
pub async fn run(
    client: Client,
    parts: Parts,
    health: Health,
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
    let caches = triggers::start(&client, &store, &wake, &health, &stop);
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
    tokio::spawn(forget_the_gone(ctx.clone(), store.clone(), stop.clone()));
    let filled = health.clone();
    tokio::spawn(async move {
        if store.wait_until_ready().await.is_ok() {
            filled.met(Condition::CachesFilled);
        }
    });
    tracing::info!("watching bindings");
    let visits = controller
        .run(guarded, |_, _, _| Action::requeue(AFTER_ERROR), ctx)
        .for_each(|_| std::future::ready(()));
    health.vital("the reconcile loop", visits).await;
    anyhow::ensure!(stop.is_cancelled(), "the reconcile loop has ended by itself");
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

/// Runs one visit with what is remembered of its binding. A panic would otherwise end the whole controller with the one
/// binding that caused it.
async fn guarded(binding: Arc<IdTokenBinding>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some(owner) = owner(&binding) else { return Ok(Action::await_change()) };
    let mut entry = ctx.memory.of(&owner.uid);
    let visit = AssertUnwindSafe(reconcile(&ctx, &binding, &owner, &mut entry)).catch_unwind().await;
    ctx.memory.keep(&owner.uid, entry);
    let Owner { namespace, name, .. } = owner;
    visit
        .unwrap_or(Err(Error::Panic))
        .inspect_err(|error| tracing::warn!(namespace, name, %error, "a visit failed; it is tried again"))
}

async fn reconcile(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    entry: &mut Entry,
) -> Result<Action, Error> {
    let wanted = validate(binding);
    let outcome = match &wanted {
        Err(problem) => Outcome::refused(problem),
        Ok(wanted) => {
            let facts = dereference(ctx, binding, owner, wanted, entry).await?;
            let decision = decide(wanted, &facts, clock::now());
            apply(ctx, binding, owner, wanted, facts, decision, entry).await
        }
    };
    status(ctx, binding, owner, wanted.as_ref().ok(), &outcome, entry).await?;
    Ok(Action::requeue(wait(&outcome, entry, clock::now())))
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
fn wait(outcome: &Outcome, entry: &Entry, now: Timestamp) -> Duration {
    let expiry = outcome.secret.record().map(|r| r.life.expires).filter(|t| *t > now);
    let stall = outcome.problem.as_ref().and_then(|p| stalls_at(entry.failing(), p, now));
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
