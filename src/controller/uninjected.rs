//! Looks for pods that ask for tokens and have none, and reports them. Only the leader does.
//!
//! A pod can't be mended: its volumes are for life. So there is a Warning event on it and one on its owner, with the mend, and the gauge
//! `idtoken_uninjected_pods`. What is known of all pods comes by a watch of metadata. A pod that asks and bears no mark of injection is
//! read, once; of those that bear one, which anybody can write, one of each owner is.

mod pods;

use std::{future::ready, pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::select_all};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, Resource as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        events::{Event, EventType},
        watcher::{self, watcher},
    },
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::pods::{Pods, Target};
use super::context::Context;
use crate::{
    cache::{Scope, api, fill::follow},
    clock,
    plan::uninjected::{Excluded, Finding, confirmation, finding},
};

/// What is needed for it.
pub(super) struct Search {
    pub ctx: Arc<Context>,
    pub scope: Scope,
    /// Namespaces that injection leaves alone.
    pub excluded: Excluded,
}

impl Search {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        Box::pin(stop.run_until_cancelled(self.terms())).await;
    }

    async fn terms(&self) {
        let fence = &self.ctx.fence;
        let mut terms = pin!(fence.terms());
        loop {
            if let Some(pass) = fence.pass() {
                Box::pin(pass.protect(self.term())).await;
                self.ctx.metrics.uninjected_pods.set(0);
            }
            terms.next().await;
        }
    }

    /// One term of leadership: begins with a list of all pods, so that nothing is lost between two leaders.
    async fn term(&self) {
        let mut pods = Pods::new(self.excluded.clone(), clock::now());
        let watches = self.scope.each(|namespace| self.watch(namespace)).into_all().enumerate();
        let mut events = select_all(watches.map(|(part, watch)| {
            // Failures are told and counted where they are followed.
            watch.filter_map(move |event| ready(event.ok().map(|event| (part, event)))).boxed()
        }));
        let mut turns = interval(PACE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failure = None;
        loop {
            tokio::select! {
                Some((part, event)) = events.next() => pods.see(part, event),
                _ = turns.tick(), if pods.has_tasks() => if let Some(pod) = pods.next(Instant::now()) {
                    self.look(&mut pods, pod, &mut failure).await;
                },
            }
            self.ctx.metrics.uninjected_pods.set(i64::try_from(pods.lacking()).unwrap_or(i64::MAX));
        }
    }

    fn watch(
        &self,
        namespace: Option<&str>,
    ) -> impl futures::Stream<Item = watcher::Result<watcher::Event<PartialObjectMeta<Pod>>>> + Send + use<>
    {
        // What has ended misses nothing. Annotations can't be selected by.
        let running = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        let events =
            watcher(api::<PartialObjectMeta<Pod>>(&self.ctx.client, namespace), running).default_backoff();
        let (events, _) = follow(events, "the watch of pods", namespace, &self.ctx.metrics.refused_watches);
        events
    }

    /// `failure` is why the last one could not be read: what stays the same is logged once.
    async fn look(&self, pods: &mut Pods, target: Target, failure: &mut Option<String>) {
        let api = Api::<Pod>::namespaced(self.ctx.client.clone(), &target.namespace);
        let (namespace, name) = (&target.namespace, &target.name);
        let read = match timeout(CALL, api.get_opt(name)).await {
            Ok(Ok(pod)) => Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&*target.uid))),
            // The message names the pod.
            Ok(Err(kube::Error::Api(status))) => Err(format!("{} {}", status.code, status.reason)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("time-out".to_owned()),
        };
        let pod = match read {
            Ok(pod) => pod,
            Err(error) => {
                if failure.as_ref() != Some(&error) {
                    tracing::warn!(namespace, name, %error, "a pod that may lack its tokens can't be read; it is tried again, and so are others");
                }
                *failure = Some(error);
                return pods.again(&target, Instant::now());
            }
        };
        *failure = None;
        let Some(pod) = pod else { return pods.gone(&target) };
        match finding(&pod) {
            Finding::Nothing => pods.gone(&target),
            Finding::Complete => {
                if let Some(owner) = pods.complete(&target, &pod.metadata) {
                    self.tell(EventType::Normal, INJECTED, confirmation(&pod.metadata), &owner).await;
                }
            }
            Finding::Lacking(note) => {
                tracing::warn!(namespace, name, "pod {note}");
                if let Some(owner) = pods.lacks(&target, &pod.metadata) {
                    self.tell(EventType::Warning, SKIPPED, format!("pod {name} {note}"), &owner).await;
                }
                self.tell(EventType::Warning, SKIPPED, note, &pod.object_ref(&())).await;
            }
        }
    }

    /// Events are a courtesy: one that can't be sent is logged, nothing more.
    async fn tell(&self, type_: EventType, reason: &str, note: String, about: &ObjectReference) {
        let note = Some(note.chars().take(NOTE).collect());
        let event =
            Event { type_, reason: reason.to_owned(), note, action: "Inject".to_owned(), secondary: None };
        match timeout(CALL, self.ctx.recorder.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "an event can't be sent"),
            Err(_) => tracing::warn!("an event can't be sent: time-out"),
        }
    }
}

/// Reason of the event about a pod that has nothing.
const SKIPPED: &str = "InjectionSkipped";
/// Reason of the event about pods that have what they asked for.
const INJECTED: &str = "Injected";
/// Of pods that are looked at: a cluster full of them is no reason to overrun the API server.
const PACE: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(10);
/// The API server takes 1024 bytes.
const NOTE: usize = 900;
