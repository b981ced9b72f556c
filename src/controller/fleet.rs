//! The watches of bindings and the visits that come of them: one watch over all namespaces, or one for each that is served.

use std::{
    collections::HashMap,
    future::ready,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, future::join_all};
use kube::{
    Client, ResourceExt as _,
    core::Selector,
    runtime::{
        WatchStreamExt as _,
        reflector::{Store, reflector, store},
        watcher::{self, Event, watcher},
    },
};
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    context::Context,
    memory::Memory,
    queue::Queue,
    triggers::PAGE,
    visit::{rank, visit},
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

/// The watches, not yet running.
pub(super) struct Fleet {
    watches: Parts<BoxFuture<'static, ()>>,
    /// How far they are, once they run.
    pub progress: Parts<Progress>,
    /// What they know of bindings, once they run.
    pub bindings: Cache<IdTokenBinding>,
    /// What is remembered of them.
    pub memory: Arc<Memory>,
}

impl Fleet {
    /// Watches of the bindings that `selector` selects in the namespaces of `scope`, which put into `queue` those that ask for a visit.
    pub(super) fn new(
        client: &Client,
        scope: &Scope,
        selector: &Selector,
        queue: &Queue,
        refused: &Gauge,
    ) -> Self {
        let memory = Arc::<Memory>::default();
        let parts = scope.each(|namespace| {
            let (store, writer) = store();
            let selected = watcher::Config::default().labels_from(selector).page_size(PAGE);
            let bindings = watcher(api::<IdTokenBinding>(client, namespace), selected).default_backoff();
            let bindings = bindings.modify(|binding| {
                lighten(&mut binding.metadata);
                if let Some(status) = &mut binding.status {
                    status.conditions.shrink_to_fit();
                }
            });
            let bindings = reflector(writer, bindings);
            let (bindings, progress) = follow(bindings, "the watch of bindings", namespace, refused);
            let (known, store, queue, memory) =
                (HashMap::new(), store.clone(), queue.clone(), memory.clone());
            let mut asking = Asking { known, store: store.clone(), queue, memory };
            let watch = bindings.for_each(move |event| {
                if let Ok(event) = event {
                    asking.see(&event);
                }
                ready(())
            });
            (store, (watch.boxed(), progress))
        });
        let (stores, parts) = parts.unzip();
        let (watches, progress) = parts.unzip();
        Self { watches, progress, bindings: Cache::of(stores), memory }
    }

    /// Runs each watch from the moment when what it `needs` is filled, and makes the visits, until `stop`, and until those under way are
    /// over or the drain period is. Deciding on half-filled caches would take grants for revoked and Secrets for deleted. All bindings are
    /// visited at the beginning of each term of leadership.
    pub(super) async fn run(
        self,
        ctx: Arc<Context>,
        needs: Vec<Vec<Progress>>,
        health: &Health,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let watches = self.watches.into_all().zip(needs).map(|(watch, needs)| {
            let work = async move {
                filled(&needs).await;
                watch.await;
            };
            health.vital("the watch of bindings", async move { stop.run_until_cancelled(work).await })
        });
        let terms = ctx.fence.terms().for_each(|_| {
            for binding in ctx.bindings.state() {
                ctx.queue.wake(&binding.namespace().unwrap_or_default(), &binding.name_any());
            }
            ready(())
        });
        let terms = health.vital("the beginning of terms", stop.run_until_cancelled(terms));
        let visits = health.vital("the visits", visits(ctx.clone(), stop));
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            _ = futures::future::join3(join_all(watches), terms, visits) => {}
            () = late => tracing::warn!("visits were still under way at the end of the drain period; they are given up"),
        }
        anyhow::ensure!(stop.is_cancelled(), "the visits have ended by themselves");
        Ok(())
    }
}

/// Makes visits until `stop`, and waits for those under way.
async fn visits(ctx: Arc<Context>, stop: &CancellationToken) {
    let under_way = TaskTracker::new();
    while let Some(turn) = stop.run_until_cancelled(ctx.queue.next(|name| rank(&ctx, name))).await {
        under_way.spawn(visit(ctx.clone(), turn));
    }
    under_way.close();
    under_way.wait().await;
}

/// Finds the bindings that ask for something else than before. One that was not there meanwhile (its label made it another release's) has
/// missed its visits, and asks anew though it has not changed. So does each that a new list brings: at its end, for only then are they in
/// the store.
struct Asking {
    known: HashMap<Option<String>, u64>,
    store: Store<IdTokenBinding>,
    queue: Queue,
    memory: Arc<Memory>,
}

impl Asking {
    fn see(&mut self, event: &Event<IdTokenBinding>) {
        match event {
            Event::Apply(binding) => {
                self.memory.saw(binding);
                let asks = asks(binding);
                if self.known.insert(binding.uid(), asks) != Some(asks) {
                    self.wake(binding);
                }
            }
            Event::InitApply(binding) => _ = self.known.insert(binding.uid(), asks(binding)),
            Event::Delete(binding) => _ = self.known.remove(&binding.uid()),
            Event::Init => self.known.clear(),
            Event::InitDone => self.store.state().iter().for_each(|binding| self.wake(binding)),
        }
    }

    fn wake(&self, binding: &IdTokenBinding) {
        self.queue.wake(&binding.namespace().unwrap_or_default(), &binding.name_any());
    }
}

/// What makes a visit of a binding, where it changes. Its status is our own work, and would make one for each that was made.
fn asks(binding: &IdTokenBinding) -> u64 {
    let meta = &binding.metadata;
    let mut hasher = DefaultHasher::new();
    (meta.generation, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    hasher.finish()
}

/// Together with the pause before SIGTERM, well within the 30 s that a pod has to end.
const DRAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use futures::{FutureExt as _, StreamExt as _, stream};

    use super::*;
    use crate::{controller::queue::Name, plan::turns::Rank};

    fn binding(generation: i64, ready: bool) -> IdTokenBinding {
        let spec =
            serde_json::json!({"audience": "https://orders.example", "source": {"metadataServer": {}}});
        let status = ready.then(|| serde_json::json!({"observedGeneration": generation}));
        let metadata =
            serde_json::json!({"name": "orders", "namespace": "shop", "uid": "u", "generation": generation});
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
        let (store, writer) = store();
        let queue = Queue::new(NonZeroUsize::new(1).unwrap(), Gauge::default());
        let (known, memory) = (HashMap::new(), Arc::default());
        let mut asking = Asking { known, store: store.clone(), queue: queue.clone(), memory };
        let mut visits = 0;
        let (brought, expected): (Vec<_>, Vec<_>) = events.into_iter().unzip();
        let brought = stream::iter(brought.into_iter().map(Ok));
        let mut brought = std::pin::pin!(reflector(writer, brought).zip(stream::iter(expected)));
        while let Some((event, expected)) = brought.next().await {
            let event: Event<IdTokenBinding> = event.unwrap();
            asking.see(&event);
            let is_there = |name: &Name| {
                store.state().iter().any(|binding| binding.name_any() == *name.name).then_some(Rank::New)
            };
            while let Some(visit) = queue.next(is_there).now_or_never() {
                visit.ends(None);
                visits += 1;
            }
            assert_eq!(visits, expected, "after {event:?}");
        }
    }
}
