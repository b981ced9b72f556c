//! `webhook.tls.mode=certManager` with cert-manager's own controllers and cainjector on a real API server. What is not there is a node:
//! the test writes the Secret to disk as the kubelet would, and asks cert-manager for the address of the loopback too.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{
    OPERATOR_NAMESPACE, World,
    admissions::{self, CONFIGURATION, Flood, bundle, handshake, restored},
    google_options,
    mounted::{Mounted, Served},
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};
use xtask::{
    chart,
    cluster::ClusterOptions,
    process::{Process, Program, wait_for},
    tools::{Tool, Tools},
};

const CERTIFICATE: &str = "idtoken-operator-webhook";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn cert_manager_makes_and_renews_what_the_webhook_serves_and_the_api_server_trusts() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let cert_manager = start_cert_manager(&world).await;
    install(&world);

    let first = issued(&world, None).await;
    let mounted = Mounted::new(world.directory.path().join("tls"));
    mounted.write(&served(&first));
    world.webhook_flags = mounted.flags();
    world.run_webhook(world.webhook_port).await;
    let authority = text(&first, "ca.crt");
    restored(&world, |now| now == authority).await;
    admissions::create(&world.client, "first", true, false).await.unwrap();

    let flood = Flood::start(&world.client, 8);
    let old = handshake(world.webhook_port, &authority).await.unwrap();
    renew(&world);
    let second = issued(&world, Some(&first)).await;
    assert_eq!(text(&second, "ca.crt"), authority, "the CA outlives its certificates");
    mounted.write(&served(&second));
    wait_for("the renewed certificate", Duration::from_secs(30), || async {
        anyhow::ensure!(handshake(world.webhook_port, &authority).await? != old, "it is the old one");
        Ok(())
    })
    .await
    .unwrap();
    let more = flood.admitted() + 200;
    while flood.admitted() < more && !flood.is_over() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (sent, admitted, failures) = flood.end().await;
    println!("{sent} admissions, {admitted} admitted");
    assert_eq!(failures, [] as [&str; 0]);
    assert_eq!(admitted, sent);

    // In this mode cainjector restores it.
    let wipe = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    kubectl(&world, &["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json", "-p", wipe]);
    restored(&world, |now| now == authority).await;
    assert_eq!(bundle(&world).await, authority);

    assert!(cert_manager.stop(Duration::from_secs(10)).await.unwrap().success());
    world.end().await;
}

async fn start_cert_manager(world: &World) -> Process {
    let tools = tokio::task::spawn_blocking(|| Tools::find(&[Tool::CertManager])).await.unwrap().unwrap();
    world.apply(&tokio::task::spawn_blocking(chart::cert_manager_crds).await.unwrap().unwrap());
    kubectl(world, &["wait", "--for=condition=Established", "crd", "--all", "--timeout=20s"]);
    Program::new(tools.path(Tool::CertManager))
        .env("KUBECONFIG", world.cluster.kubeconfig())
        .spawn(&world.directory.path().join("cert-manager.log"))
        .unwrap()
}

/// What the chart renders for cert-manager, and the registration.
fn install(world: &World) {
    let url = format!("webhook.url=https://127.0.0.1:{}/mutate", world.webhook_port);
    let mut objects = world.render(&["webhook.tls.mode=certManager", &url]);
    objects.retain(|object| {
        ["Issuer", "Certificate", "MutatingWebhookConfiguration"].contains(&object["kind"].as_str().unwrap())
    });
    assert_eq!(objects.len(), 5);
    let serving = objects
        .iter_mut()
        .find(|object| object["metadata"]["name"] == CERTIFICATE && object["kind"] == "Certificate");
    serving.unwrap()["spec"]["ipAddresses"] = json!(["127.0.0.1"]);
    world.apply(&objects);
}

/// What `cmctl renew` does.
fn renew(world: &World) {
    let get = ["get", "certificate", CERTIFICATE, "--namespace", OPERATOR_NAMESPACE, "-o", "json"];
    let mut certificate: Value = serde_json::from_str(&kubectl(world, &get)).unwrap();
    let generation = certificate["metadata"]["generation"].clone();
    certificate["status"]["conditions"].as_array_mut().unwrap().push(json!({
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "Certificate re-issuance manually triggered",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": generation,
    }));
    let (ok, output) =
        world.kubectl(&["replace", "--subresource=status", "-f", "-"], Some(&certificate.to_string()));
    assert!(ok, "{output}");
}

/// The Secret, once it holds a certificate other than that of `before`.
async fn issued(world: &World, before: Option<&Secret>) -> Secret {
    let secrets = Api::<Secret>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    let found = wait_for("a certificate", Duration::from_secs(60), || async {
        let secret = secrets.get("idtoken-operator-webhook-cert").await?;
        let is_new = before.is_none_or(|before| text(before, "tls.crt") != text(&secret, "tls.crt"));
        anyhow::ensure!(is_new, "it is the old one");
        Ok(secret)
    });
    match found.await {
        Ok(secret) => {
            assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
            secret
        }
        Err(error) => {
            let log = std::fs::read_to_string(world.directory.path().join("cert-manager.log")).unwrap();
            panic!("{error:#}\n{}", xtask::process::tail(&log, 40));
        }
    }
}

fn served(secret: &Secret) -> Served {
    Served { chain: text(secret, "tls.crt"), key: text(secret, "tls.key") }
}

fn text(secret: &Secret, key: &str) -> String {
    common::data(secret, key)
}

fn kubectl(world: &World, args: &[&str]) -> String {
    let (ok, output) = world.kubectl(args, None);
    assert!(ok, "{output}");
    output
}
