//! Keeps the Secret of every `IdTokenBinding` filled.
//!
//! ```text
//! watches ─▶ reconcile: validate → dereference → decide → apply → status → wait
//!             (pure)      (input)   (pure)   (output)  (output)
//! ```

mod apply;
mod context;
mod credentials;
mod dereference;
mod fence;
mod fleet;
mod grant_usage;
mod grants_file;
mod lease;
mod live_grants;
mod memory;
mod mints;
pub mod obtain;
mod packed;
mod publish;
mod revoke;
mod schedule;
mod secrets;
mod status;
mod token_request;
mod triggers;
mod turns;
mod uninjected;

use std::{
    collections::HashSet, convert::Infallible, num::NonZeroUsize, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Client, Resource as _,
    core::Selector,
    runtime::{
        controller::Action,
        events::{Recorder, Reporter},
    },
};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use self::{
    apply::{Outcome, apply, apply_invalid},
    context::{Caches, Context},
    dereference::{dereference, dereference_invalid},
    fence::{Fence, Role},
    fleet::Fleet,
    grant_usage::keep_usage,
    lease::Candidate,
    live_grants::LiveGrants,
    memory::{Entry, Memory, seen},
    mints::Mints,
    schedule::Schedule,
    status::status,
    triggers::Triggers,
    turns::Turns,
    uninjected::Search,
};
use crate::{
    api::IdTokenBinding,
    cache::{Cache, Scope, fill::Fills},
    clock,
    plan::{
        decide::{Decision, decide, quiet_for, settle},
        refresh::{RECHECK, sleep_until},
        secret::Owner,
        status::stalls_at,
        turns::Rank,
        uninjected::Excluded,
        validate::validate,
    },
    telemetry::{
        health::{Condition, Health},
        metrics::{Leader, Metrics},
    },
    token::mint::Minter,
    verify::Verifier,
};

pub use self::{
    grants_file::{GrantsFile, GrantsFileError},
    lease::Election,
};

/// What the controller works with.
pub struct Parts {
    /// A client that does not try again by itself: for the Lease, and for writes that must not go out later than they were decided.
    pub once: Client,
    /// Asks the sources.
    pub minter: Minter,
    /// Checks what they give.
    pub verifier: Verifier,
    /// Counts.
    pub metrics: Metrics,
}

/// How the controller is run.
#[derive(Default)]
pub struct Settings {
    /// The namespaces whose bindings it serves.
    pub scope: Scope,
    /// The labels that they must have.
    pub selector: Selector,
    /// Grants, where they are not to be watched.
    pub grants: Option<GrantsFile>,
    /// How long a Secret stays that no grant allows any more.
    pub grace: SignedDuration,
    /// Whether bindings may have Kubernetes ServiceAccounts as source: it takes the right to make tokens for them.
    pub kubernetes_service_accounts: bool,
    /// Whether to look for pods that ask for tokens and have none: everywhere but in these namespaces.
    pub uninjected: Option<Excluded>,
    /// Which of several acts.
    pub election: Option<Election>,
}

/// Runs until `stop`; then finishes what it has begun. Tells `health` when the caches are filled.
pub async fn run(
    client: Client,
    settings: Settings,
    parts: Parts,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Settings { scope, selector, grants, grace, election, kubernetes_service_accounts, uninjected } =
        settings;
    let (role, watched) = watch::channel(Role::Follower);
    let fence = election.as_ref().map_or_else(Fence::open, |_| Fence::of(watched));
    let refused = parts.metrics.refused_watches.clone();
    let fleet = Fleet::new(&client, &scope, &selector, &fence, &refused, &stop);
    let bindings = fleet.bindings.clone();
    let triggers = Triggers {
        client: client.clone(),
        scope: scope.clone(),
        bindings: bindings.clone(),
        wakes: fleet.wakes.clone(),
        health: health.clone(),
        refused,
        stop: stop.clone(),
    };
    let (grants, shared) = match grants {
        None => triggers.grants(),
        Some(file) => triggers.grants_file(file),
    };
    let (namespaced, filling) = triggers.namespaced(kubernetes_service_accounts);
    let caches = Caches { namespaced, grants };
    let needs: Vec<_> = filling.iter().map(|own| [shared.as_slice(), own].concat()).collect();
    let both = filling.iter().zip(fleet.progress.iter());
    let fills =
        Fills::new(shared, both.map(|(own, b)| [own.as_slice(), std::slice::from_ref(b)].concat()).collect());
    let drained = CancellationToken::new();
    let candidate = election.map(|election| {
        let status = parts.metrics.leader.get_or_create(&Leader { name: election.name.clone() }).clone();
        let candidate = Candidate::new(parts.once.clone(), election, role, status);
        let (fills, stop, drained) = (fills.clone(), stop.clone(), drained.clone());
        tokio::spawn(health.vital("the election", async move {
            if stop.run_until_cancelled(fills.any()).await.is_some() {
                candidate.run(stop.clone(), drained).await;
            }
        }))
    });
    let ctx = Arc::new(context(client, parts, caches, bindings.clone(), fence, grace, stop.clone()));
    let sees_all = scope.is_all() && selector.selects_all();
    let search = uninjected.map(|excluded| Search { ctx: ctx.clone(), scope, excluded });
    begin(&ctx, bindings, fills, sees_all, search, &health, &stop);
    tracing::info!("watching bindings");
    let worked = fleet.run(ctx, needs, &health, &stop).await;
    drained.cancel();
    if let Some(candidate) = candidate {
        candidate.await?;
    }
    worked
}

/// Starts what goes on beside the visits.
fn begin(
    ctx: &Arc<Context>,
    bindings: Cache<IdTokenBinding>,
    fills: Fills,
    sees_all: bool,
    search: Option<Search>,
    health: &Health,
    stop: &CancellationToken,
) {
    tokio::spawn(health.vital("the forgetting of what is gone", forget_the_gone(ctx.clone(), stop.clone())));
    let (looked_at, told, end) = (ctx.clone(), health.clone(), stop.clone());
    let filled = fills.clone();
    let looks = async move {
        filled.settled().await; // until then nothing is due
        schedule::watch(looked_at, told, end).await;
    };
    tokio::spawn(health.vital("the look at the schedule", looks));
    // Who sees a part only would tell too few.
    if sees_all {
        let usage = keep_usage(ctx.clone(), bindings, fills.clone(), stop.clone());
        tokio::spawn(health.vital("the statuses of grants", usage));
    }
    if let Some(search) = search {
        tokio::spawn(health.vital("the search for pods without injection", search.run(stop.clone())));
    }
    let met = health.clone();
    tokio::spawn(async move {
        fills.settled().await;
        met.met(Condition::CachesFilled);
    });
}

fn context(
    client: Client,
    parts: Parts,
    caches: Caches,
    bindings: Cache<IdTokenBinding>,
    fence: Fence,
    grace: SignedDuration,
    stop: CancellationToken,
) -> Context {
    let reporter = Reporter {
        controller: "idtoken.dev/controller".to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        once: parts.once,
        minter: parts.minter,
        verifier: parts.verifier,
        mints: Mints::new(),
        turns: Turns::new(PLACES, parts.metrics.waiting_visits.clone()),
        bindings,
        schedule: Schedule::new(),
        caches,
        own_account: OnceCell::new(),
        memory: Memory::default(),
        fence,
        grace,
        live_grants: LiveGrants::default(),
        metrics: parts.metrics,
        stop,
    }
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
    #[error("this process is no longer the leader")]
    Deposed,
}

/// Makes a visit, and notes when the next one is due.
async fn visit(binding: Arc<IdTokenBinding>, ctx: Arc<Context>) -> Result<Action, Infallible> {
    let uid = binding.metadata.uid.clone().unwrap_or_default();
    let pause = guarded(binding, ctx.clone()).await;
    let next = pause.as_ref().map_or(Some(AFTER_ERROR), |pause| *pause);
    ctx.schedule.visited(&uid, next);
    Ok(next.map_or_else(Action::await_change, Action::requeue))
}

/// Runs one visit when it is its turn, with what is remembered of its binding, if this process is the leader and as long as it is. A
/// panic would otherwise end the whole controller with the one binding that caused it.
async fn guarded(binding: Arc<IdTokenBinding>, ctx: Arc<Context>) -> Result<Option<Duration>, Error> {
    let Some(owner) = owner(&binding) else { return Ok(None) };
    let Some(rank) = rank(&ctx, &binding, &owner) else {
        return Ok(Some(RECHECK.unsigned_abs()));
    };
    drop(binding); // thousands may wait
    let turn = ctx.turns.turn(&owner.namespace, rank);
    let Some(_turn) = ctx.stop.run_until_cancelled(turn).await else { return Ok(None) };
    let binding = ctx.bindings.get(&owner.namespace, &owner.name);
    let Some(binding) = binding.filter(|now| now.metadata.uid.as_ref() == Some(&owner.uid)) else {
        return Ok(None);
    };
    let Some(pass) = ctx.fence.pass() else { return Ok(Some(RECHECK.unsigned_abs())) };
    let mut entry = ctx.memory.of(&owner.uid, pass.term());
    entry.saw_status(seen(&binding));
    let visit = AssertUnwindSafe(reconcile(&ctx, &binding, &owner, &mut entry)).catch_unwind();
    let visit = Box::pin(pass.protect(visit)).await;
    if visit.is_some() {
        ctx.memory.keep(&owner.uid, entry);
    }
    let Owner { namespace, name, .. } = owner;
    visit
        .unwrap_or(Ok(Err(Error::Deposed)))
        .unwrap_or(Err(Error::Panic))
        .inspect_err(|error| tracing::warn!(namespace, name, %error, "a visit failed; it is tried again"))
}

/// How urgent a visit is, as far as that can be told without a look at anything else; `None`: it is for another process to make.
fn rank(ctx: &Context, binding: &IdTokenBinding, owner: &Owner) -> Option<Rank> {
    let entry = ctx.memory.of(&owner.uid, ctx.fence.pass()?.term());
    Some(Rank::of(entry.status(seen(binding)).expiration_time, entry.attempts.is_some(), clock::now()))
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

async fn forget_the_gone(ctx: Arc<Context>, stop: CancellationToken) {
    let mut minutes = 0_u32;
    while stop.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY)).await.is_some() {
        ctx.mints.sweep();
        minutes = (minutes + 1) % FORGET_EVERY_MINUTES;
        if minutes == 0 {
            let state = ctx.bindings.state();
            let alive: HashSet<String> = state.iter().filter_map(|b| b.metadata.uid.clone()).collect();
            ctx.memory.prune(&alive);
        }
    }
}

const SHORTEST: Duration = Duration::from_millis(50);
const AFTER_ERROR: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const FORGET_EVERY_MINUTES: u32 = 10;
/// Visits under way at once. Nearly all wait for Google or for the API server, which answers no faster when more ask.
const PLACES: NonZeroUsize = NonZeroUsize::new(32).unwrap();
