//! On a real node, with the operator installed by Helm: what pods meet while the webhook is away, comes back, or is replaced.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod site;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde_json::json;
use site::{
    AUDIENCE, NAMESPACE, SOON, Site, impersonation, on_node,
    pods::{inject, phase, pod, template},
};
use tokio::sync::Mutex;
use xtask::process::wait_for;

/// One after the other: each takes the webhook from the others.
static TURN: Mutex<()> = Mutex::const_new(());
const WEBHOOK: &str = "deployment/idtoken-operator-webhook";

fn scale(site: &Site, replicas: u32) {
    site.kubectl_ok(&["-n", NAMESPACE, "scale", WEBHOOK, &format!("--replicas={replicas}")]);
}

#[test]
#[ignore = "tier node: needs a real node"]
fn only_annotated_pods_depend_on_the_webhook() {
    on_node(async |site: Arc<Site>| {
        let _turn = TURN.lock().await;
        site.installed().await;
        site.tenant("outage");
        site.bound("outage", "orders", &impersonation(AUDIENCE)).await;
        scale(&site, 0);
        let selector = "--selector=app.kubernetes.io/component=webhook";
        site.kubectl_ok(&["-n", NAMESPACE, "wait", "--for=delete", "pod", selector, "--timeout=60s"]);

        let plain = pod("outage", "plain", &template(&json!({}), "exec sleep 3600"));
        site.apply(&plain);
        site.wait_pod("outage", "plain", "the pod to run", SOON, |pod| phase(pod) == "Running").await;
        let annotated = pod("outage", "annotated", &template(&inject("orders"), "exec sleep 3600"));
        let (ok, said) = site.kubectl_with(&["apply", "--server-side", "-f", "-"], &annotated.to_string());
        assert!(!ok, "{said}");
        assert!(said.contains(r#"failed calling webhook "pods.idtoken.dev""#), "{said}");
        assert!(said.contains("idtoken-operator-webhook.idtoken-system.svc"), "it names the Service: {said}");

        scale(&site, 2);
        site.kubectl_ok(&["-n", NAMESPACE, "rollout", "status", WEBHOOK, "--timeout=60s"]);
        site.apply(&annotated);
        site.wait_pod("outage", "annotated", "the pod to run", SOON, |pod| phase(pod) == "Running").await;
        let file = "test -s $IDTOKEN_FILE && echo mounted";
        assert_eq!(
            site.kubectl_ok(&["-n", "outage", "exec", "annotated", "--", "sh", "-c", file]),
            "mounted\n"
        );
    });
}

#[test]
#[ignore = "tier node: needs a real node"]
fn no_pod_fails_while_both_replicas_are_replaced() {
    on_node(async |site: Arc<Site>| {
        let _turn = TURN.lock().await;
        site.installed().await;
        site.tenant("rollout");
        site.bound("rollout", "orders", &impersonation(AUDIENCE)).await;
        let replaced = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        let creators: Vec<_> = (0..CREATORS)
            .map(|creator| tokio::spawn(create(site.clone(), creator, replaced.clone(), made.clone())))
            .collect();
        wait_for("the first pods", SOON, || async {
            anyhow::ensure!(made.load(Ordering::Relaxed) > 20, "too few");
            Ok(())
        })
        .await
        .unwrap();
        let before = webhooks(&site);
        let watched = site.clone();
        tokio::task::spawn_blocking(move || {
            watched.kubectl_ok(&["-n", NAMESPACE, "rollout", "restart", WEBHOOK]);
            watched.kubectl_ok(&["-n", NAMESPACE, "rollout", "status", WEBHOOK, "--timeout=120s"]);
            // The last of the old ones still drains.
            let selector = "--selector=app.kubernetes.io/component=webhook";
            wait_until_only_two(&watched, selector);
        })
        .await
        .unwrap();
        replaced.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for creator in creators {
            failed.extend(creator.await.unwrap());
        }
        let after = webhooks(&site);
        let made = made.load(Ordering::Relaxed);
        println!(
            "{made} pods were created, {} of them failed; replicas before {before:?}, after {after:?}",
            failed.len()
        );
        assert!(failed.is_empty(), "{failed:?}");
        assert!(made >= 500, "{made}");
        assert_eq!((before.len(), after.len()), (2, 2));
        assert!(before.iter().all(|pod| !after.contains(pod)), "both replicas are new");
        site.kubectl_ok(&["delete", "namespace", "rollout", "--wait=false"]);
    });
}

/// Creates annotated pods that nobody schedules, until the webhook has been replaced and there are enough. Gives the
/// reasons of those that failed, or came without their token.
async fn create(
    site: Arc<Site>,
    creator: usize,
    replaced: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
) -> Vec<String> {
    let api = Api::<Pod>::namespaced(site.client.clone(), "rollout");
    let mut template = template(&inject("orders"), "true");
    template["spec"]["schedulerName"] = json!("nobody");
    let mut failed = Vec::new();
    for number in 0.. {
        if replaced.load(Ordering::Relaxed) && made.load(Ordering::Relaxed) >= 500 {
            break;
        }
        let pod = pod("rollout", &format!("pod-{creator}-{number}"), &template);
        match api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await {
            Ok(pod) => {
                let volumes = pod.spec.unwrap().volumes.unwrap_or_default();
                if !volumes.iter().any(|volume| volume.name == "idtoken") {
                    failed.push(format!("pod-{creator}-{number} has no token"));
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
        made.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    failed
}

/// The names of the webhook's pods that are there to stay.
fn webhooks(site: &Site) -> Vec<String> {
    let selector = "app.kubernetes.io/component=webhook";
    let listed = site.kubectl_ok(&[
        "-n",
        NAMESPACE,
        "get",
        "pods",
        "-l",
        selector,
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ]);
    listed.split_whitespace().map(str::to_owned).collect()
}

fn wait_until_only_two(site: &Site, selector: &str) {
    for _ in 0..120 {
        let listed = site.kubectl_ok(&["-n", NAMESPACE, "get", "pods", selector, "-o", "name"]);
        if listed.lines().count() == 2 {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("the old replicas did not go");
}

const CREATORS: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);
