//! The webhook's certificate under load, and its registration after everything that can happen to it, on a real API server with
//! `failurePolicy: Fail`: no admission fails while certificate and CA are exchanged, and a lost `caBundle` is back in under 10 s.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, unreachable_pub)]

mod common;
#[path = "api_certificates/files.rs"]
mod files;
#[path = "api_certificates/replica.rs"]
mod replica;

use std::{collections::BTreeSet, process::Command, time::Duration};

use common::{
    OPERATOR_NAMESPACE, World,
    admissions::{self, CONFIGURATION, Flood, bundle, handshake, restored},
    google_options,
};
use idtoken_operator::tls::authority::Lifetimes;
use jiff::SignedDuration;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use replica::Replica;
use serde_json::json;
use xtask::{chart, cluster::ClusterOptions, process::wait_for, tools::Tool};

/// Two replicas with lifetimes of seconds, behind a balancer as a Service would be. Beside the admissions, each replica is asked for
/// its certificate all the time, by clients that trust what is registered at that moment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn ten_thousand_admissions_across_rotations_of_leaf_and_ca_and_none_fails() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let seconds = SignedDuration::from_secs;
    let lifetimes = Lifetimes { authority: seconds(60), leaf: seconds(20), overlap: seconds(10) };
    let poll = Duration::from_secs(1);
    let replicas =
        [Replica::start(&world, lifetimes, poll).await, Replica::start(&world, lifetimes, poll).await];
    let balancer = replica::Balancer::start(replicas.each_ref().map(|replica| replica.port)).await;
    world.webhook_port = balancer.port;
    world.register_webhook();
    for replica in &replicas {
        replica.ready().await;
    }

    let flood = Flood::start(&world.client, 24);
    let (mut leaves, mut bundles) = ([BTreeSet::new(), BTreeSet::new()], BTreeSet::new());
    let mut signers = BTreeSet::new();
    let mut handshakes = 0;
    // The first of each is no rotation.
    while flood.admitted() < 10_000 || signers.len() < 4 || leaves.iter().any(|seen| seen.len() < 4) {
        let trusted = bundle(&world).await;
        for (replica, leaves) in replicas.iter().zip(&mut leaves) {
            let leaf = handshake(replica.port, &trusted).await;
            leaves.insert(leaf.unwrap_or_else(|error| panic!("after {handshakes} handshakes: {error:#}")));
            handshakes += 1;
        }
        signers.insert(first_certificate(&secret_text(&world, "ca.crt").await));
        bundles.insert(trusted);
        if flood.is_over() {
            break; // the failure is told below
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (sent, admitted, failures) = flood.end().await;
    println!(
        "{sent} admissions, {admitted} admitted; {} authorities signed; {:?} certificates presented; {} bundles registered; \
         {handshakes} handshakes; connections of the API server by replica: {:?}",
        signers.len(),
        leaves.each_ref().map(BTreeSet::len),
        bundles.len(),
        balancer.connections(),
    );
    assert_eq!(failures, [] as [&str; 0]);
    assert_eq!(admitted, sent);
    assert!(balancer.connections().iter().all(|count| *count > 0), "both replicas were called");
    for replica in replicas {
        replica.stop().await;
    }
    world.end().await;
}

/// Each is over in less than 10 s, and an annotated pod is admitted after it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn registration_is_mended_whatever_becomes_of_it() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.start_webhook().await;
    let trusted = bundle(&world).await;
    assert!(trusted.starts_with("-----BEGIN CERTIFICATE-----"));
    let before = admissions::configuration(&world).await;

    let patched = |patch: &str| {
        let (ok, output) = world.kubectl(
            &["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json", "-p", patch],
            None,
        );
        assert!(ok, "{output}");
    };
    patched(r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#);
    mended(&world, &trusted, "wiped").await;
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let other = serde_json::to_value(k8s_openapi::ByteString(other.into_bytes())).unwrap();
    patched(
        &json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": other}]).to_string(),
    );
    mended(&world, &trusted, "wrong").await;

    // An update that knows nothing of the bundle: the entry is replaced as a whole.
    let mut without = admissions::configuration(&world).await;
    without.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = None;
    let api = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
    api.replace(CONFIGURATION, &PostParams::default(), &without).await.unwrap();
    mended(&world, &trusted, "replaced").await;
    patched(r#"[{"op": "remove", "path": "/webhooks/0"}]"#);
    let mut again = before.clone();
    again.metadata = admissions::configuration(&world).await.metadata;
    again.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = None;
    api.replace(CONFIGURATION, &PostParams::default(), &again).await.unwrap();
    mended(&world, &trusted, "entry-again").await;

    // Helm 4 as it comes (server-side apply; what this test has written by itself makes conflicts), and as it replaces objects.
    for (name, flags) in [
        ("helm-adopts", ["--take-ownership", "--force-conflicts"]),
        ("helm-applies", ["--force-conflicts", "--set=webhook.timeoutSeconds=7"]),
        ("helm-replaces", ["--server-side=false", "--force-replace"]),
    ] {
        helm_upgrade(&world, &flags);
        mended(&world, &trusted, name).await;
    }

    api.delete(CONFIGURATION, &DeleteParams::default()).await.unwrap();
    world.register_webhook();
    mended(&world, &trusted, "deleted").await;
    world.end().await;
}

/// What `kubectl delete secret` and a restart do: the new replica makes another authority before the old one has put back its own. The
/// old one is told by the registration, not by its next look, and both are trusted in the end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn two_authorities_become_one_and_both_stay_trusted() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let never = Duration::from_secs(600);
    let old = Replica::start(&world, Lifetimes::default(), never).await;
    world.webhook_port = old.port;
    world.register_webhook();
    old.ready().await;
    let first = bundle(&world).await;

    let new = with_another_authority(&world, never, &first).await;
    let settled = wait_for("one authority", Duration::from_secs(30), || async {
        let trusted = bundle(&world).await;
        anyhow::ensure!(trusted.ends_with(&first) && trusted.len() > first.len(), "not both: {trusted}");
        let presented = [handshake(old.port, &trusted).await?, handshake(new.port, &trusted).await?];
        anyhow::ensure!(presented[0] == presented[1], "the old replica has not changed over");
        Ok(trusted)
    });
    let both = settled.await.unwrap();
    assert_eq!(secret_text(&world, "ca.crt").await, both);
    admissions::create(&world.client, "settled", true, true).await.unwrap();
    old.stop().await;
    new.stop().await;
    world.end().await;
}

/// A replica that found no Secret, and made an authority other than `first`. The one that runs already looks at the Secret just
/// after its registration is done, and by then may have restored it: then the Secret is taken away once more.
async fn with_another_authority(world: &World, poll: Duration, first: &str) -> Replica {
    let secrets = Api::<Secret>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    for _ in 0..3 {
        secrets.delete("idtoken-operator-webhook-tls", &DeleteParams::default()).await.unwrap();
        let replica = Replica::start(world, Lifetimes::default(), poll).await;
        replica.ready().await;
        if !secret_text(world, "ca.crt").await.starts_with(first) {
            return replica;
        }
        replica.stop().await;
    }
    panic!("the authority is restored each time, although nothing tells the other replica to look");
}

/// As docs/certificates.md says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_certificate_is_renewed_by_hand_and_no_admission_fails() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.start_webhook().await;
    let (trusted, old) = (bundle(&world).await, secret_text(&world, "tls.crt").await);
    let presented = handshake(world.webhook_port, &trusted).await.unwrap();

    let flood = Flood::start(&world.client, 4);
    let taken_out =
        r#"[{"op": "remove", "path": "/data/tls.crt"}, {"op": "remove", "path": "/data/tls.key"}]"#;
    let secret = ["--namespace", OPERATOR_NAMESPACE, "patch", "secret", "idtoken-operator-webhook-tls"];
    let (ok, output) = world.kubectl(&[&secret[..], &["--type=json", "-p", taken_out]].concat(), None);
    assert!(ok, "{output}");
    let renewed = wait_for("another certificate", Duration::from_secs(20), || async {
        let now = handshake(world.webhook_port, &trusted).await?;
        anyhow::ensure!(now != presented, "it is the old one");
        Ok(())
    });
    renewed.await.unwrap();
    assert_ne!(secret_text(&world, "tls.crt").await, old);
    let (sent, admitted, failures) = flood.end().await;
    assert_eq!(failures, [] as [&str; 0]);
    assert_eq!(admitted, sent);
    assert_eq!(bundle(&world).await, trusted, "of the same authority");
    world.end().await;
}

async fn mended(world: &World, trusted: &str, what: &str) {
    let took = restored(world, |now| now == trusted).await;
    println!("{what}: trusted again after {took:?}");
    // The API server's own view of its configurations lags by a moment.
    let admitted = wait_for("an admission", Duration::from_secs(10), || async {
        admissions::create(&world.client, &format!("{what}-pod"), true, true).await
    });
    admitted.await.unwrap();
}

fn helm_upgrade(world: &World, flags: &[&str]) {
    let url = format!("--set=webhook.url=https://127.0.0.1:{}/mutate", world.webhook_port);
    let output = Command::new(world.tools.path(Tool::Helm))
        .args(["upgrade", "--install", "--namespace", OPERATOR_NAMESPACE, &url])
        .args(flags)
        .arg(chart::CHART)
        .arg(chart::directory())
        .env("KUBECONFIG", world.cluster.kubeconfig())
        .output()
        .unwrap();
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn secret_text(world: &World, key: &str) -> String {
    let secrets = Api::<Secret>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    let secret = secrets.get("idtoken-operator-webhook-tls").await.unwrap();
    String::from_utf8(secret.data.unwrap()[key].0.clone()).unwrap()
}

/// Of a bundle of ours: the CA that signs.
fn first_certificate(bundle: &str) -> String {
    bundle.split_inclusive("-----END CERTIFICATE-----").next().unwrap().to_owned()
}
