//! Keeps the Secret of every `IdTokenBinding` filled.
//!
//! ```text
//! watches ─▶ reconcile: validate → dereference → decide → apply → status → wait
//!             (pure)      (input)   (pure)   (output)  (output)
//! ```

mod apply;
mod bindings;
mod context;
mod credentials;
mod dereference;
mod fence;
mod fleet;
mod grant_usage;
mod grants_file;
mod lag;
mod lease;
mod live_grants;
mod memory;
mod mints;
pub mod obtain;
mod packed;
mod publish;
mod queue;
mod revoke;
mod secrets;
mod status;
mod token_request;
mod triggers;
mod uninjected;
mod visit;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use jiff::SignedDuration;
use kube::{
    Client,
    core::Selector,
    runtime::events::{Recorder, Reporter},
};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use self::{
    bindings::Bindings,
    context::{Caches, Context},
    fence::{Fence, Role},
    fleet::Fleet,
    grant_usage::keep_usage,
    lease::Candidate,
    live_grants::LiveGrants,
    mints::Mints,
    queue::Queue,
    triggers::Triggers,
    uninjected::Search,
};
use crate::{
    cache::{Scope, fill::Fills},
    plan::uninjected::Excluded,
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
    let queue = Queue::new(PLACES, parts.metrics.waiting_visits.clone());
    let fleet = Fleet::new(&client, &scope, &selector, &queue, &refused);
    let bindings = fleet.bindings.clone();
    let triggers = Triggers {
        client: client.clone(),
        scope: scope.clone(),
        bindings: bindings.clone(),
        queue: queue.clone(),
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
    let ctx = Arc::new(context(client, parts, caches, &fleet, queue, fence, grace));
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
    bindings: Bindings,
    fills: Fills,
    sees_all: bool,
    search: Option<Search>,
    health: &Health,
    stop: &CancellationToken,
) {
    tokio::spawn(health.vital("the sweep", sweep(ctx.clone(), stop.clone())));
    let looks = lag::watch(
        ctx.queue.clone(),
        ctx.fence.clone(),
        ctx.metrics.schedule_lag_seconds.clone(),
        health.clone(),
        stop.clone(),
    );
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
    fleet: &Fleet,
    queue: Queue,
    fence: Fence,
    grace: SignedDuration,
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
        queue,
        bindings: fleet.bindings.clone(),
        selector: fleet.selector.clone(),
        caches,
        own_account: OnceCell::new(),
        memory: fleet.memory.clone(),
        fence,
        grace,
        live_grants: LiveGrants::default(),
        metrics: parts.metrics,
    }
}

/// Drops what nobody needs any more; and sees to it that no binding is forgotten, whatever went wrong.
async fn sweep(ctx: Arc<Context>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY)).await.is_some() {
        ctx.mints.sweep();
        ctx.memory.sweep(&ctx.bindings.uids());
        if ctx.fence.pass().is_some() {
            let adopted = ctx.queue.adopt(ctx.bindings.names(|_| true));
            if adopted > 0 {
                tracing::warn!(adopted, "bindings were not in the queue; they are visited now");
            }
        }
    }
}

const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Visits under way at once. Nearly all wait for Google or for the API server, which spends less processor time on each of many writes that
/// come at once (docs/performance.md); but each takes some 0.1 MB while it lasts.
const PLACES: NonZeroUsize = NonZeroUsize::new(96).unwrap();
