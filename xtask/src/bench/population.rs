//! The bindings that a webhook knows: made in bulk, as the controller leaves them.

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Bindings by number, spread over namespaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Population(pub(super) u32);

impl Population {
    /// Namespace and name of the binding that the `serial`th request asks for: another one each time, all in turn.
    pub(super) fn of(self, serial: u32) -> (String, String) {
        let number = serial % self.0;
        (format!("team-{:02}", number % NAMESPACES), format!("orders-{number:05}"))
    }

    /// Makes all of them, with a status each.
    pub(super) async fn create(self, client: &Client) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for number in 0..NAMESPACES.min(self.0) {
            let namespace = json!({"metadata": {"name": format!("team-{number:02}")}});
            namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
        }
        stream::iter(0..self.0)
            .map(|number| {
                let (namespace, name) = self.of(number);
                create(client.clone(), namespace, name)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

async fn create(client: Client, namespace: String, name: String) -> anyhow::Result<()> {
    let kind = GroupVersionKind::gvk("idtoken.dev", "v1alpha1", "IdTokenBinding");
    let bindings: Api<DynamicObject> =
        Api::namespaced_with(client, &namespace, &ApiResource::from_gvk(&kind));
    let binding = json!({
        "apiVersion": "idtoken.dev/v1alpha1",
        "kind": "IdTokenBinding",
        "metadata": {"name": name},
        "spec": {
            "audience": format!("https://{name}-abc-uc.a.run.app"),
            "source": {"impersonation": {"serviceAccount": CALLER}},
        },
        "status": status(&name),
    });
    let made = bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await;
    made.map(drop).with_context(|| format!("cannot create the binding {namespace}/{name}"))
}

/// What the controller reports of a binding that is served.
fn status(name: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "observedGeneration": 1,
            "lastTransitionTime": "2026-11-22T12:00:00Z",
            "message": format!("Secret {name}-idtoken holds a verified token"),
        })
    };
    json!({
        "observedGeneration": 1,
        "conditions": [
            condition("Ready", "True", "TokenFresh"),
            condition("Degraded", "False", "TokenFresh"),
            condition("Stalled", "False", "TokenFresh"),
        ],
        "source": "impersonation",
        "secretName": format!("{name}-idtoken"),
        "secretResourceVersion": "123456",
        "identity": CALLER,
        "issuer": "https://accounts.google.com",
        "issueTime": "2026-11-22T12:00:00Z",
        // Far off, so that no answer has a warning.
        "expirationTime": "2126-11-22T13:00:00Z",
        "nextRefreshTime": "2126-11-22T12:36:00Z",
    })
}

const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
const NAMESPACES: u32 = 50;
/// Requests at the same time: the API server takes hundreds, but each is a connection of the client's.
const AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_ask_for_all_bindings_in_turn() {
        let few = Population(10);
        assert_eq!(few.of(3), ("team-03".to_owned(), "orders-00003".to_owned()));
        assert_eq!(few.of(13), few.of(3));
        assert_eq!(Population(10_000).of(9_999), ("team-49".to_owned(), "orders-09999".to_owned()));
    }
}
