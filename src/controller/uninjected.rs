//! Looks for pods that ask for tokens and have none, and reports them. Only the leader does.
//!
//! A pod can't be mended: its volumes are for life. So there is a Warning event on it and one on its owner, with the mend, and the gauge
//! `idtoken_uninjected_pods`. What is known of all pods comes by a watch of metadata; only a pod that asks and bears no mark of injection
//! is read, once.

mod pods;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::select_all};
use jiff::Timestamp;
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
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::pods::{INJECTED, Pods, SKIPPED, Target, Task};
use super::context::Context;
use crate::{
    cache::{Scope, api},
    plan::uninjected::{Excluded, complaint},
};

/// What is needed for it.
pub(super) struct Search {
    pub ctx: Arc<Context>,
    pub scope: Scope,
    /// Namespaces that injection leaves alone.
    pub excluded: Excluded,
    /// When this process started.
    pub start: Timestamp,
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
                pass.protect(self.term()).await;
                self.ctx.metrics.uninjected_pods.set(0);
            }
            terms.next().await;
        }
    }

    /// One term of leadership: begins with a list of all pods, so that nothing is lost between two leaders.
    async fn term(&self) {
        let mut pods = Pods::new(self.excluded.clone(), self.start);
        let watches = self.scope.each(|namespace| self.watch(namespace)).into_all().enumerate();
        let mut events =
            select_all(watches.map(|(part, watch)| watch.map(move |event| (part, event)).boxed()));
        let mut turns = interval(PACE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            tokio::select! {
                Some((part, event)) = events.next() => match event {
                    Ok(event) => {
                        is_failing = false;
                        pods.see(part, event);
                    }
                    Err(error) if !is_failing => {
                        is_failing = true;
                        tracing::warn!(%error, "the watch of pods failed; it is tried again, and until then pods without injection are not found");
                    }
                    Err(_) => {}
                },
                _ = turns.tick(), if pods.has_tasks() => match pods.next() {
                    Some(Task::Look(pod)) => self.look(&mut pods, pod).await,
                    Some(Task::Confirm { owner, note }) => self.tell(EventType::Normal, INJECTED, note, &owner).await,
                    None => {}
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
        watcher(api::<PartialObjectMeta<Pod>>(&self.ctx.client, namespace), running).default_backoff()
    }

    async fn look(&self, pods: &mut Pods, target: Target) {
        let api = Api::<Pod>::namespaced(self.ctx.client.clone(), &target.namespace);
        let (namespace, name) = (&target.namespace, &target.name);
        let pod = match timeout(CALL, api.get_opt(name)).await {
            Ok(Ok(Some(pod))) if pod.metadata.uid.as_ref() == Some(&target.uid) => pod,
            Ok(Ok(_)) => return pods.gone(&target),
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "a pod that may lack its tokens can't be read; it is tried again");
                return pods.again(target);
            }
            Err(_) => return pods.again(target),
        };
        let complaint = complaint(&pod);
        pods.judged(&target, complaint.is_some());
        let Some(note) = complaint else { return };
        tracing::warn!(namespace, name, "pod {note}");
        if let Some(owner) = pods.first_of_owner(&pod.metadata) {
            self.tell(EventType::Warning, SKIPPED, format!("pod {name} {note}"), &owner).await;
        }
        self.tell(EventType::Warning, SKIPPED, note, &pod.object_ref(&())).await;
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

/// Of pods that are looked at and owners that are told about: a cluster full of them is no reason to overrun the API server.
const PACE: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(10);
/// The API server takes 1024 bytes.
const NOTE: usize = 900;
