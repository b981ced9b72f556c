//! A status is written over the version of the binding that was seen. What happens when it is another one by then, or none, or when
//! nobody knows whether it was written; and what then becomes of the token.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{CALLER, World, conditions, google_options, impersonation, proxy::Proxy};
use idtoken_operator::api::IdTokenBinding;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::sleep;
use xtask::{
    cluster::ClusterOptions,
    google::{Endpoint, Fault},
    process::wait_for,
};

/// After two seconds of it the binding is told to be Pending.
const LONG: Fault = Fault::Latency(Duration::from_secs(8));

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_others_write_into_a_binding_during_a_visit_stays() {
    let world = World::with_controller(google_options()).await;
    world.google.set_fault(Endpoint::GenerateIdToken, LONG);
    let bound = world.bind("orders", &impersonation()).await;
    visited(&world).await;
    let audited = json!({"status": {"conditions": [{
        "type": "Audited", "status": "True", "reason": "Looked", "message": "",
        "lastTransitionTime": "2026-01-01T10:00:00Z",
    }]}});
    let params = PatchParams::default();
    let audited = world.bindings().patch_status("orders", &params, &Patch::Merge(audited)).await.unwrap();
    let pending = world.wait_condition("orders", "Ready=Unknown/Pending").await;
    assert!(conditions(&pending).contains(&"Audited=True/Looked".to_owned()));
    patch(&world.bindings(), json!({"labels": {"team": "orders"}})).await;
    let ready = world.wait_condition("orders", "Ready=True/TokenFresh").await;
    assert!(conditions(&ready).contains(&"Audited=True/Looked".to_owned()));
    assert_eq!(ready.metadata.labels.unwrap()["team"], "orders");
    assert_eq!(ready.metadata.generation, bound.metadata.generation, "the spec is as it was");
    let failed = 2 - u64::from(is_told(&audited));
    assert_eq!(writes(&world).await, [("failed", failed), ("written", 2)].into());
    world.end().await;
}

/// Then it is the other release that tells.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_that_goes_to_another_release_during_a_visit_is_left_alone() {
    let mut world = world().await;
    world.flags = vec!["--binding-selector=release=blue".to_owned()];
    serve(&mut world).await;
    world.google.set_fault(Endpoint::GenerateIdToken, LONG);
    let mut blue = common::binding("shop", "orders", &impersonation());
    blue.metadata.labels = Some([("release".to_owned(), "blue".to_owned())].into());
    world.bindings().create(&PostParams::default(), &blue).await.unwrap();
    visited(&world).await;
    let green = patch(&world.bindings(), json!({"labels": {"release": "green"}})).await;
    let failed = 2 - u64::from(is_told(&green));
    wait_for("all words of the visit", Duration::from_secs(20), async || {
        let written = writes(&world).await;
        anyhow::ensure!(written.get("failed") == Some(&failed), "{written:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(world.bindings().get("orders").await.unwrap().status, green.status);
    assert_eq!(world.secrets().get_opt("orders-idtoken").await.unwrap(), None, "nobody's token");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_made_anew_during_a_visit_gets_nothing_of_the_old_one() {
    let world = World::with_controller(google_options()).await;
    world.google.set_fault(Endpoint::GenerateIdToken, LONG);
    let old = world.bind("orders", &impersonation()).await;
    visited(&world).await;
    world.bindings().delete("orders", &DeleteParams::default()).await.unwrap();
    let new = world.bind("orders", &impersonation()).await;
    assert_ne!(old.metadata.uid, new.metadata.uid);
    world.google.clear_faults();
    let ready = world.wait_condition("orders", "Ready=True/TokenFresh").await;
    assert_eq!(ready.metadata.uid, new.metadata.uid);
    let written = writes(&world).await;
    assert!(written["failed"] >= 1, "the old one's: {written:?}");
    let owners = world.secret_of("orders").await.metadata.owner_references.unwrap();
    assert_eq!(Some(&owners[0].uid), new.metadata.uid.as_ref());
    world.end().await;
}

/// The visit is given up and made again, until there is a lull; the token is not minted again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_that_changes_all_the_time_is_told_in_the_first_lull() {
    let mut world = world().await;
    let proxy = proxied(&mut world).await;
    serve(&mut world).await;
    world.bind("orders", &impersonation()).await;
    let (bindings, count) = (world.bindings(), Arc::new(AtomicU64::new(0)));
    let counted = count.clone();
    let storm = tokio::spawn(async move {
        loop {
            let number = counted.fetch_add(1, SeqCst).to_string();
            patch(&bindings, json!({"annotations": {"example.com/storm": number}})).await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    proxy.delay(Some(1..=1));
    world.request_refresh("orders").await;
    let contested = "update the status of IdTokenBinding shop/orders: it changes all the time, 3 writes in a row met another version";
    wait_for("a visit that is given up", Duration::from_secs(40), async || {
        anyhow::ensure!(world.logs().contains(contested), "{}", xtask::process::tail(&world.logs(), 20));
        Ok(())
    })
    .await
    .unwrap();
    storm.abort();
    proxy.delay(None);
    let told = async || {
        let (binding, secret) = (world.bindings().get("orders").await?, world.secret_of("orders").await);
        let status = binding.status.clone().unwrap_or_default();
        anyhow::ensure!(status.secret_resource_version == secret.metadata.resource_version, "{status:?}");
        Ok(binding)
    };
    let told = wait_for("the status of the second token", Duration::from_secs(40), told).await.unwrap();
    assert_eq!(conditions(&told)[0], "Ready=True/TokenFresh");
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 2);
    let last = (count.load(SeqCst) - 1).to_string();
    assert_eq!(told.metadata.annotations.unwrap()["example.com/storm"], last);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_status_whose_answer_is_lost_is_written_once() {
    let mut world = world().await;
    let proxy = proxied(&mut world).await;
    serve(&mut world).await;
    proxy.lose_answer("/idtokenbindings/orders/status");
    world.bind("orders", &impersonation()).await;
    let ready = world.wait_condition("orders", "Ready=True/TokenFresh").await;
    wait_for("the visit to fail", Duration::from_secs(20), async || {
        let written = writes(&world).await;
        anyhow::ensure!(written.get("failed") == Some(&1), "{written:?}");
        Ok(())
    })
    .await
    .unwrap();
    let written = writes(&world).await;
    sleep(Duration::from_secs(8)).await; // it is made again
    assert_eq!(writes(&world).await, written);
    let now = world.bindings().get("orders").await.unwrap();
    assert_eq!(now.metadata.resource_version, ready.metadata.resource_version);
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1);
    world.end().await;
}

/// A world whose controller is yet to be given its flags.
async fn world() -> World {
    World::start(google_options(), ClusterOptions::default()).await
}

/// Puts a proxy between the controller that is yet to start and the API server.
async fn proxied(world: &mut World) -> Proxy {
    let proxy = Proxy::start(&world.cluster).await;
    world.api_server = Some(proxy.url().to_owned());
    proxy
}

/// Starts the controller, and makes a namespace that may use the caller's identity.
async fn serve(world: &mut World) {
    world.start_controller().await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER]).await;
}

/// Waits until the first visit has come to ask for a token; then nothing is told for two seconds.
async fn visited(world: &World) {
    let asked = async || {
        anyhow::ensure!(world.google.count(Endpoint::GenerateIdToken) == 1, "nothing was asked");
        Ok(())
    };
    wait_for("the visit", Duration::from_secs(10), asked).await.unwrap();
}

async fn patch(bindings: &Api<IdTokenBinding>, metadata: Value) -> IdTokenBinding {
    let patch = Patch::Merge(json!({"metadata": metadata}));
    bindings.patch("orders", &PatchParams::default(), &patch).await.unwrap()
}

/// Whether it was told to be Pending by then: on a busy machine the two seconds may have passed.
fn is_told(binding: &IdTokenBinding) -> bool {
    conditions(binding).contains(&"Ready=Unknown/Pending".to_owned())
}

/// How many writes of statuses had which result.
async fn writes(world: &World) -> BTreeMap<&'static str, u64> {
    let metrics = world.metrics().await;
    let count = |result: &'static str| {
        let name = format!("idtoken_status_writes_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.map(|count| (result, count.parse().unwrap()))
    };
    ["failed", "written"].into_iter().filter_map(count).collect()
}
