//! The loops that visit bindings: one over all namespaces, or one for each that is served.

use std::{
    future::ready,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, future::join_all};
use kube::{
    Client, ResourceExt as _,
    core::Selector,
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _,
        controller::Config,
        reflector::{reflector, store},
        watcher::{self, watcher},
    },
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    fence::Fence,
    triggers::{LAST_APPLIED, Wake},
    visit,
};
use crate::{
    api::IdTokenBinding,
    cache::{
        Cache, Parts, Scope, api,
        fill::{Progress, filled, follow},
    },
    telemetry::health::Health,
};

/// The loops, not yet running.
pub(super) struct Fleet {
    controllers: Vec<Controller<IdTokenBinding>>,
    /// How far the watches of bindings are, once they run.
    pub progress: Parts<Progress>,
    /// What they know of bindings, once they run.
    pub bindings: Cache<IdTokenBinding>,
    /// Ask each for a visit.
    pub wakes: Parts<Wake>,
}

impl Fleet {
    /// Loops over the bindings that `selector` selects in the namespaces of `scope`, until `stop`. All bindings are visited at the beginning of each term of leadership.
    pub(super) fn new(
        client: &Client,
        scope: &Scope,
        selector: &Selector,
        fence: &Fence,
        refused: &Gauge,
        stop: &CancellationToken,
    ) -> Self {
        let mut controllers = Vec::new();
        let parts = scope.each(|namespace| {
            let (wake, mut woken) = mpsc::unbounded_channel();
            let (store, writer) = store();
            // The controller itself pauses after a failure.
            let selected = watcher::Config::default().labels_from(selector).page_size(PAGE);
            let bindings = watcher(api::<IdTokenBinding>(client, namespace), selected).modify(|binding| {
                binding.managed_fields_mut().clear();
                binding.annotations_mut().remove(LAST_APPLIED);
            });
            let bindings = reflector(writer, bindings);
            let (bindings, progress) = follow(bindings, "the watch of bindings", namespace, refused);
            let asking = bindings.applied_objects().predicate_filter(asks, PredicateConfig::default());
            let controller = Controller::for_stream(asking, store.clone())
                .reconcile_on(futures::stream::poll_fn(move |cx| woken.poll_recv(cx)))
                .reconcile_all_on(fence.terms().map(drop))
                .graceful_shutdown_on(stop.clone().cancelled_owned());
            controllers.push(controller);
            (store, (wake, progress))
        });
        let (stores, parts) = parts.unzip();
        let (wakes, progress) = parts.unzip();
        Self { controllers, progress, bindings: Cache::of(stores), wakes }
    }

    /// Runs each of them from the moment when what it `needs` is filled, until `stop`, and until the visits under way are over
    /// or the drain period is. Deciding on half-filled caches would take grants for revoked and Secrets for deleted.
    pub(super) async fn run(
        self,
        ctx: Arc<Context>,
        needs: Vec<Vec<Progress>>,
        health: &Health,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let loops = self.controllers.into_iter().zip(needs).map(|(controller, needs)| {
            // What fails is logged where it does: the visit, the watch.
            let visits = controller
                // How many are made at once is decided by whose turn it is.
                .with_config(Config::default().concurrency(0))
                .run(visit, |_, never, _| match *never {}, ctx.clone())
                .for_each(|_| ready(()));
            health.vital("the reconcile loop", async move {
                if stop.run_until_cancelled(filled(&needs)).await.is_some() {
                    visits.await;
                }
            })
        });
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            _ = join_all(loops) => {}
            () = late => tracing::warn!("visits were still under way at the end of the drain period; they are given up"),
        }
        anyhow::ensure!(stop.is_cancelled(), "the reconcile loop has ended by itself");
        Ok(())
    }
}

/// What makes a visit of a binding, where it changes. Its status is our own work, and would make one for each that was made.
fn asks(binding: &IdTokenBinding) -> Option<u64> {
    let meta = &binding.metadata;
    let mut hasher = DefaultHasher::new();
    (meta.generation, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    Some(hasher.finish())
}

/// Bindings that a list brings at once: each page is in memory whole before it is made smaller.
const PAGE: u32 = 100;
/// Together with the pause before SIGTERM, well within the 30 s that a pod has to end.
const DRAIN: Duration = Duration::from_secs(15);
