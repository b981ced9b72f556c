//! The watches of bindings and the visits that come of them: one watch over all namespaces, or one for each that is served.

use std::{future::ready, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, future::join_all};
use kube::{
    Client,
    core::Selector,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    bindings::{Bindings, Resting, asks_anew},
    context::Context,
    memory::Memory,
    queue::{Name, Queue},
    triggers::PAGE,
    visit::{rank, visit},
};
use crate::{
    api::IdTokenBinding,
    cache::{
        Parts, Scope, api,
        fill::{Progress, filled, follow},
        index::Index,
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
    pub bindings: Bindings,
    /// What is remembered of them.
    pub memory: Arc<Memory>,
    /// Which bindings these are.
    pub selector: Selector,
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
            let index = Index::default();
            let selected = watcher::Config::default().labels_from(selector).page_size(PAGE);
            let bindings = watcher(api::<IdTokenBinding>(client, namespace), selected).default_backoff();
            let bindings = bindings.modify(|binding| lighten(&mut binding.metadata));
            let mut see = seen(&index, queue.clone(), memory.clone());
            let bindings = bindings.inspect_ok(move |event| see(event));
            let (bindings, progress) = follow(bindings, "the watch of bindings", namespace, refused);
            (index, (bindings.for_each(|_| ready(())).boxed(), progress))
        });
        let (indices, parts) = parts.unzip();
        let (watches, progress) = parts.unzip();
        Self { watches, progress, bindings: Bindings::of(indices), memory, selector: selector.clone() }
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
            for name in ctx.bindings.names(|_| true) {
                ctx.queue.wake(name);
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
    while let Some(turn) =
        stop.run_until_cancelled(ctx.queue.next(|name, asked| rank(&ctx, name, asked))).await
    {
        under_way.spawn(visit(ctx.clone(), turn));
    }
    under_way.close();
    under_way.wait().await;
}

/// What takes over into `index` what a watch of bindings brings, and puts into `queue` those that ask for something else than before; of
/// a new list all, once it is there.
fn seen(
    index: &Index<Resting>,
    queue: Queue,
    memory: Arc<Memory>,
) -> impl FnMut(&Event<IdTokenBinding>) + Send + use<> {
    let (mut write, index) = (index.writer(Resting::of), index.clone());
    move |event| {
        let asks = asks_anew(&index, event);
        write(event);
        if let Some(name) = asks {
            queue.wake(name);
        }
        match event {
            Event::Apply(binding) => memory.saw(binding),
            Event::InitDone => {
                let mut all = Vec::new();
                index.each(|_| true, |namespace, name, _| all.push(Name::new(namespace, name)));
                for name in all {
                    queue.wake(name);
                }
            }
            Event::Init | Event::InitApply(_) | Event::Delete(_) => {}
        }
    }
}

/// Together with the pause before SIGTERM, well within the 30 s that a pod has to end.
const DRAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use futures::FutureExt as _;

    use jiff::Timestamp;

    use super::*;
    use crate::{api::IdTokenBindingStatus, plan::turns::Rank};

    fn binding(generation: i64, ready: bool) -> IdTokenBinding {
        let spec =
            serde_json::json!({"audience": "https://orders.example", "source": {"metadataServer": {}}});
        let status = ready.then(|| serde_json::json!({"observedGeneration": generation}));
        let metadata =
            serde_json::json!({"name": "orders", "namespace": "shop", "uid": "u", "generation": generation});
        let body = serde_json::json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": metadata, "spec": spec, "status": status});
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_binding_asks_when_it_is_changed_comes_back_or_is_listed_anew_and_its_status_is_only_taken_note_of() {
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
        let index = Index::default();
        let queue = Queue::new(NonZeroUsize::new(1).unwrap(), Gauge::default());
        let memory = Arc::<Memory>::default();
        let mut see = seen(&index, queue.clone(), memory.clone());
        let mut entry = memory.of("u", None);
        let written = binding(1, true).status.unwrap();
        let none = IdTokenBindingStatus::default();
        entry.wrote_status(&none, &none, written, None, Timestamp::UNIX_EPOCH);
        memory.keep("u", entry);
        let (mut visits, mut has_come) = (0, false);
        for (event, expected) in events {
            see(&event);
            has_come |= matches!(&event, Event::Apply(binding) if binding.status.is_some());
            assert_eq!(memory.of("u", None).written().is_none(), has_come, "after {event:?}");
            let is_there = |name: &Name, _| index.get(&name.namespace, &name.name, |_| Rank::Failing);
            while let Some(visit) = queue.next(is_there).now_or_never() {
                visit.ends(None);
                visits += 1;
            }
            assert_eq!(visits, expected, "after {event:?}");
        }
    }
}
