//! Several controllers, one of which acts: by the Lease on a real API server.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{CALLER, OPERATOR_NAMESPACE, SOON, World, google_options, http_get, impersonation};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use xtask::{
    cluster::ClusterOptions,
    google::{Endpoint, Fault},
    process::wait_for,
};

const LEASE: &str = "idtoken-operator-controller";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn one_of_two_acts_and_the_other_takes_over_after_sigterm_and_after_sigkill() {
    let mut world = electing().await;
    let first = start(&mut world, "pod-a").await;
    holder(&world, "pod-a", SOON).await;
    let second = start(&mut world, "pod-b").await;
    for index in 0..5 {
        world.bind(&format!("b{index}"), &impersonation()).await;
    }
    for index in 0..5 {
        world.wait_condition(&format!("b{index}"), "Ready=True/TokenFresh").await;
    }
    assert_eq!(minted(&world), 1, "for all, by one of them alone");
    let (leads, follows) =
        (http_get(first, "/metrics").await.unwrap(), http_get(second, "/metrics").await.unwrap());
    assert!(leads.contains("\nleader_election_master_status{name=\"idtoken-operator-controller\"} 1\n"));
    assert!(follows.contains("\nleader_election_master_status{name=\"idtoken-operator-controller\"} 0\n"));
    for written in
        ["idtoken_token_requests_total{", "idtoken_secret_writes_total{", "idtoken_status_writes_total{"]
    {
        assert!(leads.contains(written) && !follows.contains(written), "{written}: {follows}");
    }
    assert!(http_get(second, "/readyz").await.unwrap().starts_with("HTTP/1.1 200"), "a follower is ready");

    let asked = Instant::now();
    world.stop_controller_at(0).await;
    let lease = holder(&world, "pod-b", SOON).await;
    println!("taken over {:?} after SIGTERM", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?} after SIGTERM", asked.elapsed());
    assert_eq!(lease.lease_transitions, Some(1), "one change of hands, through nobody's");
    refresh(&world, "b0").await;
    assert_eq!(minted(&world), 2, "what was good stays; what is asked for is done");

    start(&mut world, "pod-c").await;
    world.kill_controller_at(0);
    let killed = Instant::now();
    holder(&world, "pod-c", Duration::from_secs(25)).await;
    println!("taken over {:?} after SIGKILL", killed.elapsed());
    assert!(killed.elapsed() > Duration::from_secs(10), "not before the dead one's deadline");
    refresh(&world, "b1").await;
    assert_eq!(minted(&world), 3);

    world.stop_controller().await;
    assert_eq!(lease_spec(&world).await.holder_identity.as_deref(), Some(""), "given back");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_leader_that_is_asked_to_end_finishes_what_it_has_begun_before_another_leads() {
    let mut world = electing().await;
    start(&mut world, "pod-a").await;
    holder(&world, "pod-a", SOON).await;
    let second = start(&mut world, "pod-b").await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Held);
    world.bind("orders", &impersonation()).await;
    wait_for("the mint to begin", SOON, async || {
        anyhow::ensure!(world.google.count(Endpoint::GenerateIdToken) == 1, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    let first = world.take_controller(0);
    let ends = tokio::spawn(async move { first.stop(Duration::from_secs(14)).await });
    sleep(Duration::from_secs(2)).await;
    assert_eq!(lease_spec(&world).await.holder_identity.as_deref(), Some("pod-a"), "it is not done");
    world.google.clear_faults();
    assert!(ends.await.unwrap().unwrap().success());
    holder(&world, "pod-b", SOON).await;
    let told = world.wait_condition("orders", "Ready=True/TokenFresh").await.status.unwrap();
    let secret = world.secret_of("orders").await.metadata;
    assert_eq!(told.secret_resource_version, secret.resource_version);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(minted(&world), 1);
    let metrics = http_get(second, "/metrics").await.unwrap();
    for written in ["idtoken_secret_writes_total{", "idtoken_status_writes_total{"] {
        assert!(!metrics.contains(written), "the second had nothing to do: {metrics}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_leader_that_can_not_renew_stops_and_goes_on_when_it_can() {
    let mut world = electing().await;
    let port = start(&mut world, "pod-a").await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    assert_eq!(minted(&world), 1);

    let role = lease_role(&world);
    assert_eq!(role.len(), 2, "a Role and its RoleBinding");
    let (ok, output) = world.kubectl(
        &["delete", "rolebinding", "idtoken-operator-controller-lease", "--namespace", OPERATOR_NAMESPACE],
        None,
    );
    assert!(ok, "{output}");
    let since = Instant::now();
    wait_for("leadership to lapse", Duration::from_secs(20), || async {
        let metrics = http_get(port, "/metrics").await?;
        anyhow::ensure!(
            metrics.contains("\nleader_election_master_status{name=\"idtoken-operator-controller\"} 0\n")
        );
        Ok(())
    })
    .await
    .unwrap();
    // Ten seconds after the last renewal, which was at most two before.
    assert!((7..15).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    world.request_refresh("orders").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(minted(&world), 1, "another one might lead");
    assert_eq!(lease_spec(&world).await.holder_identity.as_deref(), Some("pod-a"));
    for probe in ["/healthz", "/readyz"] {
        assert!(http_get(port, probe).await.unwrap().starts_with("HTTP/1.1 200"), "no restart heals it");
    }

    world.apply(&role);
    let refreshed = || async {
        anyhow::ensure!(minted(&world) == 2, "{}", minted(&world));
        Ok(())
    };
    wait_for("the refresh", SOON, refreshed).await.unwrap();
    assert_eq!(lease_spec(&world).await.lease_transitions, Some(0));
    world.end().await;
}

/// A world in which controllers elect a leader.
async fn electing() -> World {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER]).await;
    world.flags = vec!["--leader-elect".to_owned(), format!("--operator-namespace={OPERATOR_NAMESPACE}")];
    world
}

/// All that an election needs, as the chart gives it.
fn lease_role(world: &World) -> Vec<Value> {
    let rendered = world.render(&[]).into_iter();
    rendered.filter(|object| object["metadata"]["name"] == "idtoken-operator-controller-lease").collect()
}

/// Starts a controller under a pod's name; its port.
async fn start(world: &mut World, pod: &str) -> u16 {
    world.environment = vec![("POD_NAME".to_owned(), pod.to_owned())];
    world.start_controller().await;
    world.controller_port
}

async fn lease_spec(world: &World) -> LeaseSpec {
    let api = Api::<Lease>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    api.get(LEASE).await.unwrap().spec.unwrap()
}

/// Waits until `pod` holds the Lease.
async fn holder(world: &World, pod: &str, within: Duration) -> LeaseSpec {
    let api = Api::<Lease>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    let what = format!("{pod} to lead");
    let held = wait_for(&what, within, || async {
        let spec = api.get(LEASE).await?.spec.unwrap();
        anyhow::ensure!(spec.holder_identity.as_deref() == Some(pod), "{:?}", spec.holder_identity);
        Ok(spec)
    });
    held.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()))
}

/// Asks for a refresh and waits until it is done.
async fn refresh(world: &World, name: &str) {
    let before = world.secret_of(name).await.metadata.resource_version;
    world.request_refresh(name).await;
    world
        .wait_secret(&format!("{name}-idtoken"), "the refresh", SOON, |secret| {
            secret.metadata.resource_version != before
        })
        .await;
}

fn minted(world: &World) -> u64 {
    world.google.minted(Endpoint::GenerateIdToken)
}
