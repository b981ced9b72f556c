//! The webhook's certificate and its registration on a real API server: outages, replicas, wiped and deleted state, and
//! what Helm does on an upgrade.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{
    OPERATOR_NAMESPACE, SOON, World,
    admissions::{self, CONFIGURATION, bundle, configuration, handshake, restored},
    free_port, google_options,
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, api::DeleteParams};
use serde_json::json;
use tokio::time::Instant;
use xtask::{cluster::ClusterOptions, process::wait_for};

const TLS_SECRET: &str = "idtoken-operator-webhook-tls";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn while_it_is_down_annotated_pods_are_refused_and_others_start() {
    let mut world = with_webhook().await;
    create(&world, "before", true).await.unwrap();
    world.stop_webhook().await;
    let refusal = create(&world, "down", true).await.unwrap_err().to_string();
    let port = world.webhook_port;
    assert!(
        refusal.starts_with(&format!(
            "Internal error occurred: failed calling webhook \"pods.idtoken.dev\": failed to call webhook: Post \"https://127.0.0.1:{port}/mutate?timeout=5s\": "
        )) && refusal.contains("connection refused"),
        "{refusal}"
    );
    create(&world, "plain", false).await.unwrap();
    assert!(Api::<Pod>::namespaced(world.client.clone(), "shop").get_opt("down").await.unwrap().is_none());

    let (secret, bundle) = (tls_secret(&world).await, bundle(&world).await);
    world.run_webhook(port).await;
    // Retried only because the API server itself waits a little before it dials an address that refused it.
    wait_for("the webhook to be called again", SOON, || async { create(&world, "back", true).await })
        .await
        .unwrap();
    assert_eq!(tls_secret(&world).await, secret, "a restart makes no new certificates");
    assert_eq!(admissions::bundle(&world).await, bundle);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn replicas_share_one_authority_and_any_of_them_mends_it() {
    let mut world = with_webhook().await;
    let secret = tls_secret(&world).await;
    let trusted = bundle(&world).await;
    let (first, second) = (world.webhook_port, free_port());
    world.run_webhook(second).await;
    assert_eq!(tls_secret(&world).await, secret, "the second one takes what is there");
    assert_eq!(bundle(&world).await, trusted);
    for port in [first, second] {
        handshake(port, &trusted).await.unwrap();
    }
    assert_eq!(trusted.as_bytes(), secret.data.as_ref().unwrap()["ca.crt"].0);

    // Wiped, it is back within 10 s, and pods are admitted all the same.
    let wipe = r#"[{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}]"#;
    let (ok, output) = world
        .kubectl(&["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json", "-p", wipe], None);
    assert!(ok, "{output}");
    restored(&world, |now| now == trusted).await;
    create(&world, "wiped", true).await.unwrap();

    // So does a foreign one.
    let foreign =
        r#"[{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": "Zm9yZWlnbg=="}]"#;
    let (ok, output) = world.kubectl(
        &["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json", "-p", foreign],
        None,
    );
    assert!(ok, "{output}");
    restored(&world, |now| now == trusted).await;

    // A deleted Secret comes back as it was, so that meanwhile no pod is refused.
    let secrets = Api::<Secret>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    secrets.delete(TLS_SECRET, &DeleteParams::default()).await.unwrap();
    let mut pods = 0;
    let deleted = Instant::now();
    let again = loop {
        create(&world, &format!("deleted-{pods}"), true).await.unwrap();
        pods += 1;
        if let Some(again) = secrets.get_opt(TLS_SECRET).await.unwrap() {
            break again;
        }
        assert!(deleted.elapsed() < Duration::from_secs(15), "the Secret is not back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((again.data, again.type_), (secret.data, secret.type_));
    assert_eq!(bundle(&world).await, trusted);
    for port in [first, second] {
        handshake(port, &trusted).await.unwrap();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn helm_applies_the_registration_again_without_a_conflict_and_the_bundle_stays() {
    let world = with_webhook().await;
    let trusted = bundle(&world).await;
    let url = format!("webhook.url=https://127.0.0.1:{}/mutate", world.webhook_port);
    // The first as it was, the second an upgrade that changes other fields of the same webhook.
    for values in [
        vec![url.as_str()],
        vec![url.as_str(), "webhook.timeoutSeconds=7", "webhook.excludeNamespaces={dev}"],
    ] {
        let registration: Vec<_> = world
            .render(&values)
            .into_iter()
            .filter(|o| o["kind"] == "MutatingWebhookConfiguration")
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": registration});
        let (ok, output) = world
            .kubectl(&["apply", "--server-side", "--field-manager=helm", "-f", "-"], Some(&list.to_string()));
        // kubectl owns what the harness applied first; of the bundle nobody may complain.
        assert!(ok || !output.contains("caBundle"), "{output}");
        let (ok, output) = world.kubectl(
            &["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", "-"],
            Some(&list.to_string()),
        );
        assert!(ok, "{output}");
        assert_eq!(bundle(&world).await, trusted);
        create(&world, &format!("pod-{}", values.len()), true).await.unwrap();
    }
    let configuration = configuration(&world).await;
    assert_eq!(configuration.webhooks.as_ref().unwrap()[0].timeout_seconds, Some(7));
    let owners = configuration.metadata.managed_fields.unwrap();
    let owns_bundle: Vec<_> = owners
        .iter()
        .filter(|entry| serde_json::to_string(&entry.fields_v1).unwrap().contains("f:caBundle"))
        .map(|entry| entry.manager.as_deref().unwrap())
        .collect();
    assert_eq!(owns_bundle, ["idtoken-operator-webhook"]);
    let ours: Vec<_> =
        owners.iter().filter(|entry| entry.manager.as_deref() == Some("idtoken-operator-webhook")).collect();
    assert_eq!(
        serde_json::to_value(&ours[0].fields_v1).unwrap(),
        json!({"f:webhooks": {"k:{\"name\":\"pods.idtoken.dev\"}": {".": {}, "f:clientConfig": {"f:caBundle": {}}, "f:name": {}}}}),
        "of that field alone"
    );

    // Uninstalled and installed again while the webhook runs: the bundle comes by itself.
    let (ok, output) = world.kubectl(&["delete", "mutatingwebhookconfiguration", CONFIGURATION], None);
    assert!(ok, "{output}");
    create(&world, "without", false).await.unwrap();
    let registration: Vec<_> =
        world.render(&[&url]).into_iter().filter(|o| o["kind"] == "MutatingWebhookConfiguration").collect();
    world.apply(&registration);
    restored(&world, |now| now == trusted).await;
    create(&world, "again", true).await.unwrap();
    world.end().await;
}

/// A world with the webhook only and the namespace `shop`.
async fn with_webhook() -> World {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.start_webhook().await;
    restored(&world, |now| !now.is_empty()).await;
    world
}

/// Creates a pod in `shop`.
async fn create(world: &World, name: &str, annotated: bool) -> anyhow::Result<()> {
    admissions::create(&world.client, name, annotated, false).await
}

async fn tls_secret(world: &World) -> Secret {
    Api::namespaced(world.client.clone(), OPERATOR_NAMESPACE).get(TLS_SECRET).await.unwrap()
}
