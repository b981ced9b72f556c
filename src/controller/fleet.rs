//! The loops that visit bindings: one over all namespaces, or one for each that is served.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all};
use kube::{
    Client,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::{Action, Config},
        reflector::{reflector, store},
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{context::Context, fence::Fence, guarded, triggers::Wake};
use crate::{
    api::IdTokenBinding,
    cache::{Cache, Parts, Scope, api},
    telemetry::health::Health,
};

/// The loops, not yet running.
pub(super) struct Fleet {
    controllers: Vec<Controller<IdTokenBinding>>,
    filled: Vec<CancellationToken>,
    /// What they know of bindings, once they run.
    pub bindings: Cache<IdTokenBinding>,
    /// Ask each for a visit.
    pub wakes: Parts<Wake>,
}

impl Fleet {
    /// Loops over the namespaces of `scope`, until `stop`. All bindings are visited at the beginning of each term of leadership.
    pub(super) fn new(client: &Client, scope: &Scope, fence: &Fence, stop: &CancellationToken) -> Self {
        let mut controllers = Vec::new();
        let mut filled = Vec::new();
        let parts = scope.each(|namespace| {
            let (wake, mut woken) = mpsc::unbounded_channel();
            let (store, writer) = store();
            let all = CancellationToken::new();
            filled.push(all.clone());
            // Not by the store, whose one waiter is the controller.
            let bindings = reflector(writer, watcher(api(client, namespace), watcher::Config::default()))
                .inspect(move |event| {
                    if matches!(event, Ok(Event::InitDone)) {
                        all.cancel();
                    }
                });
            let controller = Controller::for_stream(bindings.applied_objects(), store.clone())
                .reconcile_on(futures::stream::poll_fn(move |cx| woken.poll_recv(cx)))
                .reconcile_all_on(fence.terms().map(drop))
                .graceful_shutdown_on(stop.clone().cancelled_owned());
            controllers.push(controller);
            (store, wake)
        });
        let bindings = Cache::of(parts.clone().map(|(store, _)| store));
        Self { controllers, filled, bindings, wakes: parts.map(|(_, wake)| wake) }
    }

    /// Returns when all loops that run have seen every binding.
    pub(super) fn filled(&self) -> impl Future<Output = ()> + Send + use<> {
        let filled = self.filled.clone();
        async move {
            for all in filled {
                all.cancelled().await;
            }
        }
    }

    /// Runs all of them until `stop`, and until the visits under way are over or the drain period is.
    pub(super) async fn run(
        self,
        ctx: Arc<Context>,
        health: &Health,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let share = u16::try_from(self.controllers.len()).map_or(1, |loops| CONCURRENCY / loops.max(1));
        let loops = self.controllers.into_iter().map(|controller| {
            let visits = controller
                .with_config(Config::default().concurrency(share.max(FEWEST)))
                .run(guarded, |_, _, _| Action::requeue(AFTER_ERROR), ctx.clone())
                .for_each(|_| std::future::ready(()));
            health.vital("the reconcile loop", visits)
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

/// Visits under way at once. Nearly all wait for Google or for the API server.
const CONCURRENCY: u16 = 128;
/// In one of many loops.
const FEWEST: u16 = 8;
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// Together with the pause before SIGTERM, well within the 30 s that a pod has to end.
const DRAIN: Duration = Duration::from_secs(15);
