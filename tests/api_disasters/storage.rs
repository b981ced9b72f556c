//! etcd stands still, is killed, and is full.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use tokio::time::sleep;
use xtask::{
    cluster::{ClusterOptions, Part},
    process::wait_for,
};

use crate::{
    common::etcd::Etcd,
    fleet::{Fleet, PATIENCE},
    quiet,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn etcd_stands_still_and_then_is_killed() {
    let mut fleet = quiet().await;
    fleet
        .survives(async |fleet| {
            fleet.world.cluster.part(Part::Etcd).signal("STOP").unwrap();
            sleep(Duration::from_secs(13)).await;
            fleet.world.cluster.part(Part::Etcd).signal("CONT").unwrap();
            fleet.world.cluster.ready(PATIENCE).await.unwrap();
        })
        .await;

    fleet.survives(async |fleet| fleet.without(Part::Etcd).await).await;
    fleet.end().await;
}

/// NOSPACE: nothing can be written until somebody has made room.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn etcd_is_full_until_somebody_makes_room() {
    let options = ClusterOptions {
        etcd_args: vec![format!("--quota-backend-bytes={}", 16 << 20)],
        ..ClusterOptions::default()
    };
    let mut fleet = Fleet::start(options, &[], &[]).await;
    fleet
        .survives(async |fleet| {
            let (client, etcd) = (&fleet.world.client, Etcd::of(&fleet.world.cluster));
            fill(client).await;
            sleep(Duration::from_secs(13)).await;
            assert_eq!(etcd.alarms().await[0]["alarm"], "NOSPACE");
            empty(client).await;
            etcd.compact().await;
            etcd.defragment().await;
            etcd.disarm().await;
        })
        .await;
    fleet.end().await;
}

/// Writes until nothing can be written.
async fn fill(client: &Client) {
    let api = Api::<ConfigMap>::namespaced(client.clone(), "default");
    for index in 0.. {
        let body =
            json!({"metadata": {"name": format!("ballast-{index}")}, "data": {"x": "x".repeat(700_000)}});
        match api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await {
            Ok(_) => assert!(index < 100, "there is always room"),
            Err(error) => {
                assert!(error.to_string().contains("database space exceeded"), "{error}");
                return;
            }
        }
    }
}

/// Deleting is possible all the same.
async fn empty(client: &Client) {
    let api = Api::<ConfigMap>::namespaced(client.clone(), "default");
    for ballast in api.list(&ListParams::default()).await.unwrap() {
        let name = ballast.metadata.name.unwrap();
        if name.starts_with("ballast-") {
            let delete = || async { Ok(api.delete(&name, &DeleteParams::default()).await.map(drop)?) };
            wait_for("room to be made", PATIENCE, delete).await.unwrap();
        }
    }
}
