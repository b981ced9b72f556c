//! The loops that visit bindings: one over all namespaces, or one for each that is served.

use std::{
    collections::HashMap,
    future::ready,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _, future::join_all};
use kube::{
    Client, ResourceExt as _,
    core::Selector,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::Config,
        reflector::{ObjectRef, Store, reflector, store},
        watcher::{self, Event, watcher},
    },
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    fence::Fence,
    triggers::{PAGE, Wake},
    visit,
};
use crate::{
    api::IdTokenBinding,
    cache::{
        Cache, Parts, Scope, api,
        fill::{Progress, filled, follow},
        light::lighten,
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
                lighten(&mut binding.metadata);
                if let Some(status) = &mut binding.status {
                    status.conditions.shrink_to_fit();
                }
            });
            let bindings = reflector(writer, bindings);
            let (bindings, progress) = follow(bindings, "the watch of bindings", namespace, refused);
            let controller =
                Controller::for_stream(asking(bindings, store.clone(), wake.clone()), store.clone())
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
                // How many of them are made at once is decided by whose turn it is.
                .with_config(Config::default().concurrency(LINE))
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

/// The bindings that ask for something else than before. One that was not there meanwhile (its label made it another release's) has
/// missed its visits, and asks anew though it has not changed. So does each that a new list brings, by `wake`: at its end, for only then
/// are they in the `store`.
fn asking(
    events: impl Stream<Item = watcher::Result<Event<IdTokenBinding>>>,
    store: Store<IdTokenBinding>,
    wake: Wake,
) -> impl Stream<Item = watcher::Result<IdTokenBinding>> {
    let mut known = HashMap::new();
    events.filter_map(move |event| {
        ready(match event {
            Ok(Event::Apply(binding)) => {
                let asks = asks(&binding);
                let before = known.insert(binding.uid(), asks);
                (before != Some(asks)).then_some(Ok(binding))
            }
            Ok(Event::InitApply(binding)) => {
                known.insert(binding.uid(), asks(&binding));
                None
            }
            Ok(Event::Delete(binding)) => {
                known.remove(&binding.uid());
                None
            }
            Ok(Event::Init) => {
                known.clear();
                None
            }
            Ok(Event::InitDone) => {
                for binding in store.state() {
                    // Nobody takes from it any more at the end only.
                    let _ = wake.send(ObjectRef::from_obj(&*binding));
                }
                None
            }
            Err(error) => Some(Err(error)),
        })
    })
}

/// What makes a visit of a binding, where it changes. Its status is our own work, and would make one for each that was made.
fn asks(binding: &IdTokenBinding) -> u64 {
    let meta = &binding.metadata;
    let mut hasher = DefaultHasher::new();
    (meta.generation, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    hasher.finish()
}

/// Visits among which the turn goes by need; others come into line behind them. The controller looks at each of them whenever one moves, so
/// that a line of all bindings would cost the square of their number.
const LINE: u16 = 512;
/// Together with the pause before SIGTERM, well within the 30 s that a pod has to end.
const DRAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn binding(generation: i64, ready: bool) -> IdTokenBinding {
        let spec =
            serde_json::json!({"audience": "https://orders.example", "source": {"metadataServer": {}}});
        let status = ready.then(|| serde_json::json!({"observedGeneration": generation}));
        let metadata = serde_json::json!({"name": "orders", "uid": "u", "generation": generation});
        let body = serde_json::json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": metadata, "spec": spec, "status": status});
        serde_json::from_value(body).unwrap()
    }

    #[tokio::test]
    async fn a_binding_asks_when_it_is_changed_comes_back_or_is_listed_anew_and_not_by_its_status() {
        let events = [
            (Event::Init, 0),
            (Event::InitApply(binding(1, false)), 0),
            (Event::InitDone, 1),
            (Event::Apply(binding(1, true)), 1),
            (Event::Apply(binding(2, true)), 2),
            (Event::Delete(binding(2, true)), 2),
            (Event::Apply(binding(2, true)), 3),
            (Event::Init, 3),
            (Event::InitApply(binding(2, true)), 3),
            (Event::InitDone, 4),
        ];
        for (index, (_, expected)) in events.iter().enumerate() {
            let until = events[..=index].iter().map(|(event, _)| Ok(event.clone()));
            let ((store, writer), (wake, mut woken)) = (store(), mpsc::unbounded_channel());
            let visits = asking(reflector(writer, stream::iter(until)), store.clone(), wake);
            let mut count = visits.count().await;
            while let Some(listed) = woken.recv().await {
                assert!(store.get(&listed).is_some() || index != 2, "it is there to be visited");
                count += 1;
            }
            assert_eq!(count, *expected, "after {index}");
        }
    }
}
