//! The ValidatingAdmissionPolicy that looks whether a pod which asked for tokens really has its volume: silent while injection works,
//! and a warning, an audit annotation or a refusal while it does not.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{SOON, World, google_options};
use serde_json::{Value, json};
use tempfile::TempDir;
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
    let noted = wait_for("the audit log to have it", SOON, || async { audit.of_pod("down") }).await.unwrap();
    let failure =
        noted["annotations"]["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
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
    let noted = wait_for("the audit log to have it", SOON, || async { audit.of_pod("up") }).await.unwrap();
    assert_eq!(noted["annotations"]["validation.policy.admission.k8s.io/validation_failure"], Value::Null);
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
    assert!(!created.await.unwrap().contains("Warning"));
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

/// The API server's audit log, of pods that are created.
struct Audit(TempDir);

impl Audit {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [
            {"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["pods"]}]},
            {"level": "None"},
        ], "omitStages": ["RequestReceived"]});
        std::fs::write(directory.path().join("policy.yaml"), policy.to_string()).unwrap();
        Self(directory)
    }

    fn options(&self) -> ClusterOptions {
        let file = |name: &str| self.0.path().join(name).display().to_string();
        let args = vec![
            format!("--audit-policy-file={}", file("policy.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ];
        ClusterOptions { api_server_args: args, ..ClusterOptions::default() }
    }

    /// The entry about the creation of a pod, but not as a dry run.
    fn of_pod(&self, name: &str) -> anyhow::Result<Value> {
        let log = std::fs::read_to_string(self.0.path().join("audit.log"))?;
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_dry = |entry: &Value| entry["requestURI"].as_str().is_some_and(|uri| uri.contains("dryRun"));
        let mut entries = entries.filter(|entry| entry["objectRef"]["name"] == name && !is_dry(entry));
        entries.next().ok_or_else(|| anyhow::anyhow!("nothing about {name} yet"))
    }
}
