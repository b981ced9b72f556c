//! Tokens belong in their Secret and nowhere else.

use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};

use super::World;
use idtoken_operator::api::{IdTokenBinding, IdTokenGrant};

/// Fails when any token that the simulator ever issued, or the signature of one, stands in a log, an event, a metric, an
/// object other than a Secret, or in a Secret's metadata.
pub async fn assert_none(world: &World) {
    let tokens = world.google.issued_tokens();
    let everything = captured(world).await;
    assert!(everything.len() > 1000, "there is something to search in");
    for token in &tokens {
        // The last part is the secret one; a log that shortens tokens would still show the beginning.
        let parts = [token.as_str(), token.rsplit('.').next().unwrap(), &token[..token.len().min(60)]];
        for part in parts.into_iter().filter(|p| p.len() >= 16) {
            if let Some(at) = everything.find(part) {
                let from = everything[..at].rfind('\n').map_or(0, |i| i + 1);
                let around: String = everything[from..at].chars().take(400).collect();
                panic!("a token stands behind: {around}");
            }
        }
    }
}

/// Logs of the operator and of the API server, metrics, events, and all objects without the data of Secrets.
async fn captured(world: &World) -> String {
    let mut text = world.logs();
    text.push_str(&world.cluster.api_server_log());
    if world.controller_port != 0 {
        text.push_str(&super::http_get(world.controller_port, "/metrics").await.unwrap_or_default());
    }
    let all = ListParams::default();
    let client = &world.client;
    let events = Api::<Event>::all(client.clone()).list(&all).await.unwrap();
    text.push_str(&serde_json::to_string(&events).unwrap());
    let bindings = Api::<IdTokenBinding>::all(client.clone()).list(&all).await.unwrap();
    text.push_str(&serde_json::to_string(&bindings).unwrap());
    let grants = Api::<IdTokenGrant>::all(client.clone()).list(&all).await.unwrap();
    text.push_str(&serde_json::to_string(&grants).unwrap());
    for secret in Api::<Secret>::all(client.clone()).list(&all).await.unwrap() {
        text.push_str(&serde_json::to_string(&secret.metadata).unwrap());
    }
    text
}
