//! The ValidatingAdmissionPolicy that looks whether a pod which asked for tokens really has its volume: silent while injection works,
//! and a warning, an audit annotation or a refusal while it does not.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use anyhow::Context as _;
use common::{SOON, World, audit::Audit, google_options};
use serde_json::{Value, json};
use xtask::{cluster::ClusterOptions, process::wait_for};

const NO_VOLUME: &str = "annotation idtoken.dev/inject: \"orders,stock\" was not acted on: the pod has no volume \"idtoken\" with the token of \
                         \"orders\"; create it again when the webhook is up: kubectl -n idtoken-system get deployment idtoken-operator-webhook";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn it_warns_and_notes_while_the_webhook_is_down_and_is_silent_while_it_works() {
    let audit = Audit::new();
    let mut world = World::start(google_options(), audit.options()).await;
    world.namespace("shop").await;
    register_and_ignore(&world);
    in_force(&world).await;

    let (ok, printed) = create(&world, &asking("down"));
    assert!(ok, "{printed}");
    assert!(
        printed.contains("pod/down created\n")
            && printed.contains(&format!(
                "Warning: Validation failed for ValidatingAdmissionPolicy 'idtoken-operator-injection-check' with binding \
                 'idtoken-operator-injection-check': {NO_VOLUME}\n"
            )),
        "{printed}"
    );
    let entry = noted(&audit, "down").await;
    let failure =
        entry["annotations"]["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
    let failure: Value = serde_json::from_str(failure).unwrap();
    assert_eq!((&failure[0]["message"], failure.as_array().unwrap().len()), (&json!(NO_VOLUME), 1));

    // Volumes without mounts, and a mount that would never be updated.
    let mut half = asking("half");
    half["spec"]["volumes"] = hand_made();
    half["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "idtoken", "mountPath": "/token", "subPath": "orders/token"}]);
    let (ok, printed) = create(&world, &half);
    assert!(
        ok && printed.contains(
            "was acted on, but none of the containers that are meant mounts the volume \"idtoken\""
        ),
        "{printed}"
    );

    for quiet in [complete("by-hand"), bare("bare"), blank("blank")] {
        let (ok, printed) = create(&world, &quiet);
        assert!(ok && !printed.contains("Warning"), "{printed}");
    }
    world.run_webhook(world.webhook_port).await;
    wait_for("the webhook's certificate to be trusted", SOON, || async {
        let (ok, printed) = dry_run(&world, &asking("up"));
        anyhow::ensure!(ok && !printed.contains("was not acted on"), "{printed}");
        Ok(())
    })
    .await
    .unwrap();
    let (ok, printed) = create(&world, &asking("up"));
    assert!(ok && !printed.contains("Validation failed"), "{printed}");
    let entry = noted(&audit, "up").await;
    assert_eq!(entry["annotations"]["validation.policy.admission.k8s.io/validation_failure"], Value::Null);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn it_refuses_when_it_is_told_to() {
    let world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    register_and_ignore(&world);
    world.install(&["injection.check.actions={Deny,Audit}"]).await;
    in_force(&world).await;
    let refused = wait_for("the binding to refuse", SOON, || async {
        let (ok, printed) = dry_run(&world, &asking("down"));
        anyhow::ensure!(!ok, "{printed}");
        Ok(printed)
    });
    let refused = refused.await.unwrap();
    assert!(refused.contains(&format!("denied request: {NO_VOLUME}")), "{refused}");
    for fine in [complete("by-hand"), bare("bare"), blank("blank")] {
        let (ok, printed) = dry_run(&world, &fine);
        assert!(ok, "{printed}");
    }
    world.end().await;
}

/// What injects and what refuses by a policy leave nothing for the check to say.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn it_lets_pods_pass_that_a_policy_has_changed() {
    let world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.install(&["injection.mode=policy", "injection.check.actions={Deny}"]).await;
    let created = wait_for("the policies to be in force", SOON, || async {
        let (ok, printed) = dry_run(&world, &asking("asks"));
        anyhow::ensure!(ok && printed.contains("mountPath"), "{printed}");
        Ok(printed)
    });
    created.await.unwrap();
    // Where nothing is mounted into the one container that is meant, the check has something to say: it is in force.
    let mut taken = asking("taken");
    taken["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
    taken["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "own", "mountPath": "/var/run/secrets/idtoken.dev"}]);
    wait_for("the check to refuse", SOON, || async {
        let (ok, printed) = dry_run(&world, &taken);
        anyhow::ensure!(!ok && printed.contains("none of the containers that are meant mounts"), "{printed}");
        Ok(())
    })
    .await
    .unwrap();
    let (ok, printed) = dry_run(&world, &asking("asks"));
    assert!(ok && printed.contains("mountPath") && !printed.contains("Warning"), "{printed}");
    world.end().await;
}

/// The webhook is registered, does not run, and is not insisted on.
fn register_and_ignore(world: &World) {
    let url = format!("webhook.url=https://127.0.0.1:{}/mutate", world.webhook_port);
    let registration: Vec<_> = world
        .render(&[&url, "webhook.failurePolicy=Ignore"])
        .into_iter()
        .filter(|object| object["kind"] == "MutatingWebhookConfiguration")
        .collect();
    world.apply(&registration);
}

async fn in_force(world: &World) {
    wait_for("the check to be in force", SOON, || async {
        let (_, printed) = dry_run(world, &asking("asks"));
        anyhow::ensure!(printed.contains("was not acted on"), "{printed}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Waits until the creation of a pod is in the audit log.
async fn noted(audit: &Audit, pod: &str) -> Value {
    let noted =
        wait_for("the audit log to have it", SOON, || async { audit.created(pod).context("not yet") });
    noted.await.unwrap()
}

fn bare(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

fn asking(name: &str) -> Value {
    let mut pod = bare(name);
    pod["metadata"]["annotations"] = json!({"idtoken.dev/inject": "orders, stock"});
    pod
}

fn blank(name: &str) -> Value {
    let mut pod = bare(name);
    pod["metadata"]["annotations"] = json!({"idtoken.dev/inject": " "});
    pod
}

/// All that it asks for its author has mounted.
fn complete(name: &str) -> Value {
    let mut pod = asking(name);
    pod["spec"]["volumes"] = hand_made();
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "idtoken", "mountPath": "/tokens"}]);
    pod
}

fn hand_made() -> Value {
    let source = |name: &str| json!({"secret": {"name": "mine", "items": [{"key": "k", "path": format!("{name}/token")}]}});
    json!([{"name": "idtoken", "projected": {"sources": [source("orders"), source("stock")]}}])
}

fn create(world: &World, pod: &Value) -> (bool, String) {
    world.kubectl(&["create", "-f", "-"], Some(&pod.to_string()))
}

fn dry_run(world: &World, pod: &Value) -> (bool, String) {
    world.kubectl(&["create", "-f", "-", "-o", "json", "--dry-run=server"], Some(&pod.to_string()))
}
