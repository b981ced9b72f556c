//! Tokens belong in their Secret and nowhere else.

use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};

use super::World;
use idtoken_operator::api::{IdTokenBinding, IdTokenGrant};

/// Fails when a credential that the test planted, any token that the simulator ever issued, or the signature of one, stands in a log, an event, a metric, an
/// object other than a Secret, or in a Secret's metadata.
pub async fn assert_none(world: &World) {
    let tokens = [world.planted.clone(), world.google.issued_tokens()].concat();
    let everything = captured(world).await;
    assert!(
        (world.started == 0 || !world.logs().is_empty()) && !world.cluster.api_server_log().is_empty(),
        "there is something to search in"
    );
    if let Some(leak) = find(&everything, &tokens) {
        panic!("a token stands behind: {leak}");
    }
    if let Some(token) = tokens.last() {
        // The search itself works.
        let planted = format!("{everything}\nlevel=DEBUG body={token}");
        assert_eq!(find(&planted, &tokens).as_deref(), Some("level=DEBUG body="));
    }
}

/// What stands in the line before the first token, or part of one.
fn find(everything: &str, tokens: &[String]) -> Option<String> {
    for token in tokens {
        // The last part is the secret one; a log that shortens tokens would still show the beginning.
        let parts = [token.as_str(), token.rsplit('.').next().unwrap(), &token[..token.len().min(60)]];
        for part in parts.into_iter().filter(|p| p.len() >= 10) {
            if let Some(at) = everything.find(part) {
                let from = everything[..at].rfind('\n').map_or(0, |i| i + 1);
                return Some(everything[from..at].chars().take(400).collect());
            }
        }
    }
    None
}

/// Logs of the operator and of the API server, metrics, events, and all objects without the data of Secrets.
async fn captured(world: &World) -> String {
    let mut text = world.logs();
    text.push_str(&world.cluster.api_server_log());
    for port in world.metrics_ports() {
        let metrics = super::http_get(port, "/metrics").await.unwrap();
        assert!(metrics.contains("idtoken_build_info"), "{metrics}");
        text.push_str(&metrics);
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
