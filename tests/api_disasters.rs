//! Bad days of a cluster: what breaks between etcd and the controller, and what must hold afterwards.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

#[path = "api_disasters/election.rs"]
mod election;
#[path = "api_disasters/fleet.rs"]
mod fleet;
#[path = "api_disasters/garbage.rs"]
mod garbage;
#[path = "api_disasters/observer.rs"]
mod observer;
#[path = "api_disasters/split.rs"]
mod split;
#[path = "api_disasters/storage.rs"]
mod storage;

use std::time::Duration;

use fleet::{Fleet, PATIENCE};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;
use xtask::{
    cluster::{ClusterOptions, Part},
    process::wait_for,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_api_server_is_killed_and_started_again() {
    let mut fleet = quiet().await;
    fleet.survives(async |fleet| fleet.without(Part::ApiServer).await).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn all_watches_are_cut_again_and_again() {
    let mut fleet = quiet().await;
    let before = fleet.proxy.watches();
    fleet
        .survives(async |fleet| {
            for _ in 0..12 {
                fleet.proxy.cut_watches();
                sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
    assert!(fleet.proxy.watches() > before + 8, "they were asked for again");
    fleet.end().await;
}

/// What the controller knows of bindings and Secrets grows old, while what it reads and writes gets through.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn watches_are_frozen() {
    let mut fleet = quiet().await;
    fleet
        .survives(async |fleet| {
            fleet.proxy.freeze_watches(true);
            sleep(Duration::from_secs(14)).await;
            fleet.proxy.freeze_watches(false);
        })
        .await;
    fleet.end().await;
}

/// 410 Gone: the watches end, history goes on without them and is then forgotten.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn watches_come_back_to_a_history_that_is_forgotten() {
    let mut fleet = quiet().await;
    fleet
        .survives(async |fleet| {
            fleet.proxy.refuse_watches(true);
            fleet.proxy.cut_watches();
            sleep(Duration::from_secs(6)).await;
            common::etcd::Etcd::of(&fleet.world.cluster).compact().await;
            // It has the younger history in memory.
            fleet.world.cluster.part(Part::ApiServer).restart().unwrap();
            fleet.world.cluster.ready(PATIENCE).await.unwrap();
            fleet.proxy.refuse_watches(false);
            let gone = async || {
                anyhow::ensure!(fleet.proxy.gone() > 0, "nobody was told 410");
                Ok(())
            };
            wait_for("a watch that is too old", PATIENCE, gone).await.unwrap();
        })
        .await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_answer_takes_seconds() {
    let mut fleet = quiet().await;
    fleet
        .survives(async |fleet| {
            fleet.proxy.delay(Some(2..=8));
            sleep(Duration::from_secs(25)).await;
            fleet.proxy.delay(None);
        })
        .await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn somebody_writes_to_the_same_objects_all_the_time() {
    let mut fleet = quiet().await;
    fleet
        .survives(async |fleet| {
            let storms: Vec<_> =
                (0..4).map(|part| tokio::spawn(storm(fleet.world.client.clone(), part))).collect();
            sleep(Duration::from_secs(14)).await;
            assert!(storms.iter().all(|storm| !storm.is_finished()), "it has not lulled");
            storms.iter().for_each(tokio::task::JoinHandle::abort);
        })
        .await;
    let metrics = fleet.world.metrics().await;
    for writes in ["secret", "status"] {
        let met = format!("idtoken_{writes}_writes_total{{result=\"failed\"}}");
        assert!(metrics.contains(&met), "none met another version: {metrics}");
    }
    fleet.end().await;
}

/// Patches one object after the other of those that are there, as fast as they take it.
async fn storm(client: Client, part: usize) {
    let mut count = 0;
    loop {
        for index in (0..6).filter(|index| index % 4 == part) {
            for namespace in ["shop", "depot"] {
                count += 1;
                let patch = Patch::Merge(
                    json!({"metadata": {"annotations": {"example.com/storm": count.to_string()}}}),
                );
                let (name, params) = (format!("{namespace}-{index}"), PatchParams::default());
                let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
                let bindings =
                    Api::<idtoken_operator::api::IdTokenBinding>::namespaced(client.clone(), namespace);
                // One of them is deleted meanwhile.
                let _ = secrets.patch(&format!("{name}-idtoken"), &params, &patch).await;
                let _ = bindings.patch(&name, &params, &patch).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// A fleet without an election, before a cluster without peculiarities.
async fn quiet() -> Fleet {
    Fleet::start(ClusterOptions::default(), &[], &[]).await
}
