//! Keeps `caBundle` in the `MutatingWebhookConfiguration`: that field and no other, by server-side apply.
//!
//! The chart does not render it, so neither Helm nor a `GitOps` tool sees a difference. The object itself is never created
//! here: whoever installs the operator decides whether pods are mutated.
use std::{pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    telemetry::health::{Condition, Health},
    tls::authority::Registered,
};

/// The field manager that owns `caBundle`.
pub const FIELD_MANAGER: &str = "idtoken-operator-webhook";

/// Waits for the configuration `name`, and puts the latest `bundle` into it whenever it holds something else; until `cancel`.
/// Hands on to `seen` what it holds, and tells `health` when that was ours.
pub async fn maintain(
    client: Client,
    name: String,
    bundle: watch::Receiver<Option<String>>,
    seen: watch::Sender<Registered>,
    health: Health,
    cancel: CancellationToken,
) {
    let mut registration = Registration { api: Api::all(client), name, bundle, seen, health, present: None };
    cancel.run_until_cancelled(registration.follow()).await;
}

struct Registration {
    api: Api<MutatingWebhookConfiguration>,
    name: String,
    bundle: watch::Receiver<Option<String>>,
    seen: watch::Sender<Registered>,
    health: Health,
    present: Option<MutatingWebhookConfiguration>,
}

impl Registration {
    async fn follow(&mut self) {
        let selected = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = pin!(watcher(self.api.clone(), selected).default_backoff());
        let mut backoff = DefaultBackoff::default();
        let mut pause = None;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.see(event),
                    Some(Err(error)) => tracing::warn!(configuration = self.name, %error, "watching"),
                    None => return,
                },
                changed = self.bundle.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
            pause = match self.correct().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    tracing::warn!(configuration = self.name, error, "caBundle not written; trying again");
                    backoff.next().map(|pause| pause.min(RETRY))
                }
            };
        }
    }

    fn see(&mut self, event: Event<MutatingWebhookConfiguration>) {
        match event {
            Event::Apply(found) | Event::InitApply(found) => self.present = Some(found),
            Event::Delete(_) => self.present = None,
            Event::Init => {
                self.present = None;
                return; // what there is follows
            }
            Event::InitDone => {}
        }
        self.hand_on();
    }

    fn hand_on(&self) {
        let bundles = self.present.as_ref().map(bundles).unwrap_or_default();
        self.seen.send_if_modified(|seen| {
            let is_other = seen.bundles != bundles;
            if is_other {
                *seen = Registered { bundles, since: Some(clock::now()) };
            }
            is_other
        });
    }

    /// What is to be written; nothing when it is there already, which is told.
    fn wanted(&mut self) -> Option<Value> {
        let bundle = self.bundle.borrow_and_update().clone()?;
        let correction = correction(self.present.as_ref()?, &bundle);
        if correction.is_none() {
            self.health.met(Condition::Registered);
        }
        correction
    }

    /// Writes the bundle where it is not there already.
    async fn correct(&mut self) -> Result<(), String> {
        let Some(mut correction) = self.wanted() else { return Ok(()) };
        if self.present.as_ref().is_some_and(|present| bundles(present).iter().any(|now| !now.is_empty())) {
            // Perhaps that of a replica which found another authority: first let ours have a look, which it is told to.
            tokio::time::sleep(YIELD).await;
            match self.wanted() {
                Some(latest) => correction = latest,
                None => return Ok(()),
            }
        }
        // Forced: whoever wiped the field owns it for the moment, and it is the only one that we send.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&correction);
        let written = timeout(CALL, self.api.patch(&self.name, &params, &patch)).await;
        let written = written.map_err(|_| "no answer in time".to_owned())?;
        self.present = Some(written.map_err(|error| error.to_string())?);
        self.hand_on();
        tracing::info!(configuration = self.name, "caBundle written");
        self.health.met(Condition::Registered);
        // Where another program insists on a value of its own, this keeps a quarrel from becoming a storm.
        tokio::time::sleep(SPACING).await;
        Ok(())
    }
}

/// What each webhook of `present` has the API server trust.
fn bundles(present: &MutatingWebhookConfiguration) -> Vec<String> {
    let webhooks = present.webhooks.iter().flatten();
    webhooks
        .map(|webhook| webhook.client_config.ca_bundle.clone().unwrap_or_default().0)
        .map(|bundle| String::from_utf8_lossy(&bundle).into_owned())
        .collect()
}

/// What to apply so that every webhook of `present` trusts `bundle`; `None` when all of them do.
#[must_use]
pub fn correction(present: &MutatingWebhookConfiguration, bundle: &str) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let webhooks = present.webhooks.as_deref().unwrap_or_default();
    if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(&wanted)) {
        return None;
    }
    let webhooks: Vec<_> = webhooks
        .iter()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": &wanted}}))
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        // With the uid, an apply to an object that is gone by now fails instead of creating half of one.
        "metadata": {"name": present.metadata.name, "uid": present.metadata.uid},
        "webhooks": webhooks,
    }))
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// For one call to the API server, retries included.
const CALL: Duration = Duration::from_secs(10);
/// A wiped bundle is to be back within 10 s, so never wait longer than this.
const RETRY: Duration = Duration::from_secs(5);
/// Before a bundle that is not ours is replaced.
const YIELD: Duration = Duration::from_millis(500);
/// Between two writes.
const SPACING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn configuration(bundles: [&Value; 2]) -> MutatingWebhookConfiguration {
        let webhook = |name: &str, bundle: &Value| {
            json!({
                "name": name,
                "clientConfig": {"url": "https://127.0.0.1:10250/mutate", "caBundle": bundle},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            })
        };
        serde_json::from_value(json!({
            "metadata": {"name": "idtoken-operator", "uid": "7f0c"},
            "webhooks": [webhook("a.idtoken.dev", bundles[0]), webhook("b.idtoken.dev", bundles[1])],
        }))
        .unwrap()
    }

    #[test]
    fn equal_bundle_is_not_written() {
        let same = json!("Q0E=");
        assert_eq!(correction(&configuration([&same, &same]), "CA"), None);
        assert_eq!(correction(&MutatingWebhookConfiguration::default(), "CA"), None);
    }

    #[test]
    fn missing_wiped_and_foreign_bundles_are_replaced_and_nothing_else_is_sent() {
        for other in [json!(null), json!(""), json!("b3RoZXI=")] {
            assert_eq!(
                correction(&configuration([&json!("Q0E="), &other]), "CA").unwrap(),
                json!({
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": "MutatingWebhookConfiguration",
                    "metadata": {"name": "idtoken-operator", "uid": "7f0c"},
                    "webhooks": [
                        {"name": "a.idtoken.dev", "clientConfig": {"caBundle": "Q0E="}},
                        {"name": "b.idtoken.dev", "clientConfig": {"caBundle": "Q0E="}},
                    ],
                })
            );
        }
    }
}
