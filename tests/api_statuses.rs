//! A status is written over the version of the binding that was seen. What happens when it is another one by then, or none, or when
//! nobody knows whether it was written; and what then becomes of the token.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{CALLER, World, conditions, google_options, impersonation, impersonation_for, proxy::Proxy};
use idtoken_operator::api::IdTokenBinding;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use xtask::{
    cluster::ClusterOptions,
    google::{Endpoint, Fault},
    process::wait_for,
};

const READY: &str = "Ready=True/TokenFresh";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_others_write_into_a_binding_during_a_visit_stays() {
    let world = World::with_controller(google_options()).await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Held);
    let bound = world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=Unknown/Pending").await;
    let audited = json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
        "status": {"conditions": [{
            "type": "Audited", "status": "True", "reason": "Looked", "message": "",
            "lastTransitionTime": "2026-01-01T10:00:00Z",
        }]},
    });
    let auditor = PatchParams::apply("auditor");
    world.bindings().patch_status("orders", &auditor, &Patch::Apply(audited)).await.unwrap();
    patch(&world.bindings(), json!({"labels": {"team": "orders"}})).await;
    world.google.clear_faults();
    let ready = world.wait_condition("orders", READY).await;
    assert!(conditions(&ready).contains(&"Audited=True/Looked".to_owned()));
    assert_eq!(ready.metadata.labels.unwrap()["team"], "orders");
    assert_eq!(ready.metadata.generation, bound.metadata.generation, "the spec is as it was");
    // Pending and Ready; which was first written over the version before the other two. It is counted once the answer is there.
    wait_for("the counts", Duration::from_secs(10), async || {
        let writes = writes(&world).await;
        anyhow::ensure!(writes == [("failed", 1), ("written", 2)].into(), "{writes:?}");
        Ok(())
    })
    .await
    .unwrap();
    world.end().await;
}

/// One goes to another release, which then tells; one is on its way out.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_that_leaves_during_a_visit_is_left_alone() {
    let mut world = world().await;
    world.flags = vec!["--binding-selector=release=blue".to_owned()];
    serve(&mut world).await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Held);
    for name in ["orders", "held", "stays"] {
        let mut blue = common::binding("shop", name, &impersonation_for(name));
        blue.metadata.labels = Some([("release".to_owned(), "blue".to_owned())].into());
        blue.metadata.finalizers = Some(vec!["example.com/backup".to_owned()]);
        world.bindings().create(&PostParams::default(), &blue).await.unwrap();
    }
    visited(&world, 3).await;
    let green = patch(&world.bindings(), json!({"labels": {"release": "green"}})).await;
    world.bindings().delete("held", &DeleteParams::default()).await.unwrap();
    let held = world.bindings().get("held").await.unwrap();
    world.wait_condition("stays", "Ready=Unknown/Pending").await;
    sleep(Duration::from_secs(1)).await; // its turn to tell came with that of the others
    world.google.clear_faults();
    world.wait_condition("stays", READY).await;
    wait_for("all tokens", Duration::from_secs(20), async || {
        anyhow::ensure!(world.google.minted(Endpoint::GenerateIdToken) == 3);
        Ok(())
    })
    .await
    .unwrap();
    sleep(Duration::from_secs(3)).await;
    for before in [green, held] {
        let name = before.metadata.name.unwrap();
        assert_eq!(world.bindings().get(&name).await.unwrap().status, before.status, "{name}");
        assert_eq!(
            world.secrets().get_opt(&format!("{name}-idtoken")).await.unwrap(),
            None,
            "nobody's token"
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_made_anew_during_a_visit_gets_nothing_of_the_old_one() {
    let world = World::with_controller(google_options()).await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Held);
    let old = world.bind("orders", &impersonation()).await;
    visited(&world, 1).await;
    world.bindings().delete("orders", &DeleteParams::default()).await.unwrap();
    let new = world.bind("orders", &impersonation()).await;
    assert_ne!(old.metadata.uid, new.metadata.uid);
    world.google.clear_faults();
    let ready = world.wait_condition("orders", READY).await;
    assert_eq!(ready.metadata.uid, new.metadata.uid);
    let owners = world.secret_of("orders").await.metadata.owner_references.unwrap();
    assert_eq!(Some(&owners[0].uid), new.metadata.uid.as_ref());
    world.end().await;
}

/// The visit is given up and made again, until there is a lull; the token is not minted again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_that_changes_all_the_time_is_told_in_the_first_lull() {
    let (world, proxy) = proxied().await;
    let (bindings, lull) = (world.bindings(), CancellationToken::new());
    let lulled = lull.clone();
    let storm = tokio::spawn(async move {
        let mut number = 0;
        while !lulled.is_cancelled() {
            number += 1;
            patch(&bindings, json!({"annotations": {"example.com/storm": number.to_string()}})).await;
            sleep(Duration::from_millis(50)).await;
        }
        number.to_string()
    });
    world.wait_condition("orders", READY).await;
    proxy.delay(Some(1..=1));
    world.request_refresh("orders").await;
    let contested = "update the status of IdTokenBinding shop/orders: it changes all the time, 3 writes in a row met another version";
    wait_for("a visit that is given up", Duration::from_secs(40), async || {
        anyhow::ensure!(world.logs().contains(contested), "{}", xtask::process::tail(&world.logs(), 20));
        Ok(())
    })
    .await
    .unwrap();
    lull.cancel();
    let last = storm.await.unwrap();
    proxy.delay(None);
    let told = async || {
        let (binding, secret) = (world.bindings().get("orders").await?, world.secret_of("orders").await);
        let status = binding.status.clone().unwrap_or_default();
        anyhow::ensure!(status.secret_resource_version == secret.metadata.resource_version, "{status:?}");
        Ok(binding)
    };
    let told = wait_for("the status of the second token", Duration::from_secs(40), told).await.unwrap();
    assert_eq!(conditions(&told)[0], READY);
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 2);
    assert_eq!(told.metadata.annotations.unwrap()["example.com/storm"], last);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_status_whose_answer_is_lost_is_written_once() {
    let (world, proxy) = proxied().await;
    let first = world.wait_condition("orders", READY).await;
    sleep(Duration::from_secs(2)).await; // it is counted once its answer is there
    let before = writes(&world).await;
    assert_eq!(before.get("failed"), None, "{before:?}");
    proxy.lose_answer("/idtokenbindings/orders/status");
    world.request_refresh("orders").await;
    wait_for("the visit to fail", Duration::from_secs(20), async || {
        let written = writes(&world).await;
        anyhow::ensure!(written.contains_key("failed"), "{written:?}");
        Ok(())
    })
    .await
    .unwrap();
    let told = world.bindings().get("orders").await.unwrap();
    let secret = world.secret_of("orders").await.metadata;
    assert_eq!(
        told.status.clone().unwrap().secret_resource_version,
        secret.resource_version,
        "it is written"
    );
    assert_ne!(told.status, first.status);
    sleep(Duration::from_secs(8)).await; // the visit is made again
    // If the Secret's watch is faster than the binding's, it meets the version that it has written itself.
    let after = writes(&world).await;
    assert_eq!(after["written"], before["written"], "{after:?}");
    assert!(after["failed"] <= 2, "{after:?}");
    let now = world.bindings().get("orders").await.unwrap();
    assert_eq!(now.metadata.resource_version, told.metadata.resource_version);
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 2);
    world.end().await;
}

/// A world whose controller is yet to be given its flags.
async fn world() -> World {
    World::start(google_options(), ClusterOptions::default()).await
}

/// A world with a binding, and a proxy between its controller and the API server.
async fn proxied() -> (World, Proxy) {
    let mut world = world().await;
    let proxy = Proxy::start(&world.cluster).await;
    world.api_server = Some(proxy.url().to_owned());
    serve(&mut world).await;
    world.bind("orders", &impersonation()).await;
    (world, proxy)
}

/// Starts the controller, and makes a namespace that may use the caller's identity.
async fn serve(world: &mut World) {
    world.start_controller().await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER]).await;
}

/// Waits until the first visits of so many bindings have come to ask for a token.
async fn visited(world: &World, bindings: usize) {
    let asked = async || {
        anyhow::ensure!(world.google.count(Endpoint::GenerateIdToken) == bindings, "not yet");
        Ok(())
    };
    wait_for("the visit", Duration::from_secs(10), asked).await.unwrap();
}

async fn patch(bindings: &Api<IdTokenBinding>, metadata: Value) -> IdTokenBinding {
    let patch = Patch::Merge(json!({"metadata": metadata}));
    bindings.patch("orders", &PatchParams::default(), &patch).await.unwrap()
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
