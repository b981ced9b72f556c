//! Pods that ask for tokens and have none, on a real API server with real processes: they are found and reported, by the leader
//! alone and also after a change of leaders, until they are created again.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{OPERATOR_NAMESPACE, SOON, World, google_options, http_get};
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use xtask::{cluster::ClusterOptions, process::wait_for};

/// Another one waits for as long as a Lease lasts, and then some.
const TAKEOVER: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn pods_from_while_the_webhook_was_down_are_reported_until_they_are_made_again() {
    let mut world = world().await;
    register_and_ignore(&world);
    create(&world, "shop", &pod("web-1", "orders", "web-7d9f")).await;
    create(&world, "shop", &pod("web-2", "orders", "web-7d9f")).await;
    world.start_controller().await;
    uninjected(&world, 2).await;
    let note = "asks for the tokens of IdTokenBindings orders, but has no volume \"idtoken\" with the token of orders. Nothing injected when \
                it was created, or that was taken away again, or the annotation came later than the pod (it belongs in the template). \
                When injection is at work: kubectl -n shop rollout restart deployment/web";
    let events = events(&world, "InjectionSkipped", 3).await;
    let about = |kind: &str, name: &str| {
        let of = events.iter().filter(|event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            (regarding.kind.as_deref(), regarding.name.as_deref()) == (Some(kind), Some(name))
        });
        of.collect::<Vec<_>>()
    };
    for name in ["web-1", "web-2"] {
        let [event] = about("Pod", name)[..] else { panic!("{events:#?}") };
        assert_eq!(event.note.as_deref(), Some(note));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
    let [of_owner] = about("ReplicaSet", "web-7d9f")[..] else { panic!("not once: {events:#?}") };
    let told = of_owner.note.clone().unwrap();
    assert!([format!("pod web-1 {note}"), format!("pod web-2 {note}")].contains(&told), "{told}");
    assert_eq!(of_owner.regarding.as_ref().unwrap().uid.as_deref(), Some("web-7d9f-uid"));

    // Pods that have it all, that ask for nothing, and where nothing is injected are nobody's business.
    let mut by_hand = pod("by-hand", "orders", "by-hand");
    by_hand["spec"]["volumes"] = json!([{"name": "idtoken", "projected": {"sources": [
        {"secret": {"name": "mine", "items": [{"key": "k", "path": "orders/token"}]}},
    ]}}]);
    by_hand["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "idtoken", "mountPath": "/tokens"}]);
    create(&world, "shop", &by_hand).await;
    create(&world, "shop", &pod("asks-for-nothing", " ", "nothing")).await;
    create(&world, OPERATOR_NAMESPACE, &pod("excluded", "orders", "excluded")).await;
    create(&world, "gke-managed-of-the-future", &pod("excluded", "orders", "excluded")).await;
    create(&world, "shop", &pod("web-3", "orders", "web-7d9f")).await;
    uninjected(&world, 3).await;
    assert_eq!(self::events(&world, "InjectionSkipped", 4).await.len(), 4, "web-3 and no other");

    // Created again while the webhook is there.
    world.run_webhook(world.webhook_port).await;
    for name in ["web-1", "web-2", "web-3"] {
        delete(&world, name).await;
    }
    uninjected(&world, 0).await;
    injecting(&world).await;
    create(&world, "shop", &pod("web-4", "orders", "web-9c4b")).await;
    create(&world, "shop", &pod("late", "stock", "late")).await;
    let good = self::events(&world, "Injected", 2).await;
    let mut told: Vec<_> = good.iter().map(|event| event.note.clone().unwrap()).collect();
    told.sort();
    assert_eq!(
        told,
        [
            "pod late has got the tokens of IdTokenBindings stock; said once for all pods of its owner",
            "pod web-4 has got the tokens of IdTokenBindings orders; said once for all pods of its owner",
        ]
    );
    uninjected(&world, 0).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn only_the_leader_looks_and_the_next_one_finds_the_same() {
    let mut world = world().await;
    world.flags.push("--leader-elect".to_owned());
    world.start_controller().await;
    create(&world, "shop", &pod("web-1", "orders", "web-7d9f")).await;
    create(&world, "shop", &pod("web-2", "a,,b", "web-7d9f")).await;
    uninjected(&world, 2).await;
    let first = world.controller_port;
    world.start_controller().await;
    assert_eq!((gauge(first).await.unwrap(), gauge(world.controller_port).await.unwrap()), (2, 0));
    delete(&world, "web-1").await;
    world.kill_controller_at(0);
    let found = wait_for("the next leader to find it", TAKEOVER, || async {
        anyhow::ensure!(gauge(world.controller_port).await? == 1);
        Ok(())
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    let notes: Vec<_> =
        events(&world, "InjectionSkipped", 2).await.iter().map(|e| e.note.clone().unwrap()).collect();
    assert!(
        notes.iter().any(|note| note.starts_with(
            "asks for tokens in a way that is refused, but nothing looked at it when it was created, or the annotation came later: \
             annotation idtoken.dev/inject: \"a,,b\" contains an empty name;"
        )),
        "{notes:#?}"
    );
    world.end().await;
}

/// Anybody can write the mark of what injects: in a template that was copied from a pod, and to silence a report.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_mark_that_is_false_is_not_believed() {
    let mut world = world().await;
    world.start_controller().await;
    for name in ["web-1", "web-2"] {
        let mut copied = pod(name, "orders", "web-7d9f");
        copied["metadata"]["annotations"]["idtoken.dev/status"] =
            json!(r#"{"injector":"webhook","version":"0.1.0"}"#);
        create(&world, "shop", &copied).await;
    }
    create(&world, "shop", &pod("bare", "orders", "bare")).await;
    uninjected(&world, 3).await;
    let (ok, text) = world.kubectl(&["-n", "shop", "annotate", "pod", "bare", "idtoken.dev/status={}"], None);
    assert!(ok, "{text}");
    // By the time that this one is found the mark was seen.
    create(&world, "shop", &pod("last", "orders", "last")).await;
    uninjected(&world, 4).await;
    assert_eq!(events(&world, "InjectionSkipped", 7).await.len(), 7, "four pods and three owners");
    assert_eq!(events(&world, "Injected", 0).await.len(), 0);
    world.end().await;
}

/// In scoped mode Roles are enough, and nothing of other namespaces is seen.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn in_scoped_mode_only_the_scope_is_looked_at() {
    let mut world = world().await;
    world.namespace("bank").await;
    world.namespace("other").await;
    let (ok, text) = world.kubectl(&["delete", "clusterrolebinding", "idtoken-operator-controller"], None);
    assert!(ok, "{text}");
    let values =
        ["scope.namespaces={shop,bank}", "webhook.tls.mode=secret", "webhook.tls.secretName=x", CA_BUNDLE];
    world.install(&values).await;
    let is_in_bank = |o: &Value| o["kind"] == "Role" && o["metadata"]["namespace"] == "bank";
    let mut roles: Vec<_> = world.render(&values).into_iter().filter(is_in_bank).collect();
    for role in &mut roles {
        role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!(["pods"]));
    }
    world.apply(&roles);
    let grants = world.directory.path().join("grants.yaml");
    std::fs::write(&grants, "[]\n").unwrap();
    world.flags.extend(["--namespace=shop,bank".to_owned(), format!("--grants-file={}", grants.display())]);
    for namespace in ["shop", "bank", "other"] {
        create(&world, namespace, &pod("web", "orders", "web")).await;
    }
    world.start_controller().await;
    // What can't be watched is no false all-clear, and keeps no other namespace waiting.
    uninjected(&world, 1).await;
    refused_watches(&world, 1).await;
    world.install(&values).await;
    uninjected(&world, 2).await;
    refused_watches(&world, 0).await;
    let api = Api::<Pod>::namespaced(world.client.clone(), "bank");
    api.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    uninjected(&world, 1).await;
    world.end().await;
}

const CA_BUNDLE: &str = "webhook.tls.caBundle=-----BEGIN CERTIFICATE-----";

/// A world with the flags that the chart gives the controller for this, and with a namespace where GKE would be at home.
async fn world() -> World {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.namespace("gke-managed-of-the-future").await;
    let objects = world.render(&[]);
    let deployment = objects
        .iter()
        .find(|o| o["kind"] == "Deployment" && o["metadata"]["name"] == "idtoken-operator-controller")
        .unwrap();
    let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    let ours = ["--report-uninjected-pods", "--exclude-namespaces"];
    let args = args
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .filter(|arg| ours.iter().any(|own| arg.starts_with(own)));
    world.flags = args.map(str::to_owned).collect();
    assert_eq!(world.flags.len(), 2);
    world
}

/// The webhook is registered and not insisted on.
fn register_and_ignore(world: &World) {
    let url = format!("webhook.url=https://127.0.0.1:{}/mutate", world.webhook_port);
    let registration: Vec<_> = world
        .render(&[&url, "webhook.failurePolicy=Ignore"])
        .into_iter()
        .filter(|object| object["kind"] == "MutatingWebhookConfiguration")
        .collect();
    world.apply(&registration);
}

/// A pod that asks for tokens, of a `ReplicaSet` as a Deployment makes it.
fn pod(name: &str, inject: &str, owner: &str) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": format!("{owner}-uid"), "controller": true});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"pod-template-hash": "7d9f"},
            "annotations": {"idtoken.dev/inject": inject},
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

async fn create(world: &World, namespace: &str, pod: &Value) {
    let api = Api::<Pod>::namespaced(world.client.clone(), namespace);
    api.create(&PostParams::default(), &serde_json::from_value(pod.clone()).unwrap()).await.unwrap();
}

async fn delete(world: &World, name: &str) {
    let api = Api::<Pod>::namespaced(world.client.clone(), "shop");
    api.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
}

/// Waits until the webhook's certificate is trusted, and it changes pods.
async fn injecting(world: &World) {
    let api = Api::<Pod>::namespaced(world.client.clone(), "shop");
    let pod: Pod = serde_json::from_value(pod("probe", "orders", "probe")).unwrap();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let injecting = wait_for("the webhook to inject", SOON, || async {
        let created = api.create(&dry_run, &pod).await?;
        anyhow::ensure!(created.spec.unwrap_or_default().volumes.is_some());
        Ok(())
    });
    injecting.await.unwrap();
}

/// Waits until the newest controller says that there are `count` such pods.
async fn uninjected(world: &World, count: i64) {
    let what = format!("{count} pods to be reported");
    let reported = wait_for(&what, SOON, || async {
        let now = gauge(world.controller_port).await?;
        anyhow::ensure!(now == count, "it is {now}");
        Ok(())
    });
    reported.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
}

async fn refused_watches(world: &World, count: usize) {
    let line = format!("\nidtoken_refused_watches {count}\n");
    wait_for("the number of refused watches", SOON, || async {
        let metrics = world.metrics().await;
        anyhow::ensure!(metrics.contains(&line), "{metrics}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn gauge(port: u16) -> anyhow::Result<i64> {
    let metrics = http_get(port, "/metrics").await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("idtoken_uninjected_pods "));
    Ok(line.ok_or_else(|| anyhow::anyhow!("no such metric: {metrics}"))?.parse()?)
}

/// Waits until there are at least so many events of a reason in `shop`.
async fn events(world: &World, reason: &str, count: usize) -> Vec<Event> {
    let api = Api::<Event>::namespaced(world.client.clone(), "shop");
    let what = format!("{count} events {reason}");
    let found = wait_for(&what, SOON, || async {
        let all = api.list(&ListParams::default()).await?;
        let of: Vec<_> = all.items.into_iter().filter(|e| e.reason.as_deref() == Some(reason)).collect();
        anyhow::ensure!(of.len() >= count, "{} of them", of.len());
        Ok(of)
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()))
}
