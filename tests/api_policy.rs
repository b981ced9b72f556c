//! `injection.mode: policy` on a real API server: no process of ours runs, and pods get what the webhook would give them, by the same
//! fixtures and in the same words.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{
    OPERATOR_NAMESPACE, SOON, World, google_options,
    injection::is_whole,
    other_webhook::{self, OtherWebhook, by_label},
    pods, refusals,
};
use idtoken_operator::plan::inject::{Pod, inject};
use serde_json::{Value, json};
use xtask::{cluster::ClusterOptions, process::wait_for};

/// Fixtures of the webhook that can't be those of the policy.
const OTHERS: [(&str, &str); 4] = [
    ("every-option.yaml", "a binding with a Secret, a key and an authorization key of its own"),
    ("unknown-and-expired.yaml", "a binding with an authorization key; warnings"),
    ("paths-taken.yaml", "a binding with an authorization key"),
    ("left-alone-no-spec.yaml", "the API server takes no pod without a spec"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_webhooks_fixtures_are_answered_literally_and_only_once() {
    let world = with_policy().await;
    let mut seen = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/inject")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if OTHERS.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let fixture: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (pod, expected) = (&fixture["pod"], patched(&fixture["pod"], &fixture["patch"]));
        let created = create(&world, "shop", &whole(pod)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(substance(&created), as_stored(&world, &whole(&expected)).await, "{name}");
        let handled = name != "left-alone-blank.yaml" && name != "left-alone-mirror.yaml";
        let status = handled.then_some(r#"{"injector":"policy","version":"0.1.0"}"#);
        assert_eq!(created["metadata"]["annotations"]["idtoken.dev/status"].as_str(), status, "{name}");

        let again = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "annotations": created["metadata"]["annotations"]}, "spec": created["spec"]});
        let again = create(&world, "shop", &again).await.unwrap();
        assert_eq!(again["spec"], created["spec"], "{name}: a second application");
        assert_eq!(again["metadata"]["annotations"], created["metadata"]["annotations"], "{name}");
        seen += 1;
    }
    assert_eq!(seen, 10);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn malformed_annotations_are_refused_in_the_webhooks_words() {
    let world = with_policy().await;
    for (pod, message) in refusals::all() {
        let refused = create(&world, "shop", &pod).await.unwrap_err();
        assert_eq!(refused, refusal(&message));
    }
    world.end().await;
}

/// The webhook's decision is asked for each of many pods, and what it says is compared with what comes of the policy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn pods_of_every_kind_get_what_the_webhook_would_give_them() {
    let world = with_policy().await;
    let (mut injected, mut refused) = (0, 0);
    for mut pod in pods::sample(&pods::accepted(), 6, 240) {
        pod["metadata"].as_object_mut().unwrap().remove("namespace");
        let pod = whole(&pod);
        let created = create(&world, "shop", &pod).await;
        match inject(&Pod::of(&pod), &|_| None, "2026-11-22T12:00:00Z".parse().unwrap()) {
            Ok(injection) => {
                let patch = serde_json::to_value(&injection.patch).unwrap();
                // Also where the API server has something against it.
                let stored = create(&world, OPERATOR_NAMESPACE, &patched(&pod, &patch)).await;
                assert_eq!(created.map(|c| substance(&c)), stored.map(|s| substance(&s)), "{pod}");
                injected += 1;
            }
            Err(words) => {
                let told = created.unwrap_err();
                // Nothing is added to it, and the API server looks at what is there before any policy may refuse it.
                if !told.contains(".name: Not found: \"idtoken\"") {
                    assert_eq!(told, refusal(&words.to_string()), "{pod}");
                }
                refused += 1;
            }
        }
    }
    assert!(injected >= 80 && refused >= 40, "{injected} injected, {refused} refused");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn twenty_containers_and_more_bindings_than_anybody_has_are_within_the_budget() {
    let world = with_policy().await;
    for bindings in [10, 64] {
        let names: Vec<_> = (0..bindings).map(|i| format!("binding-number-{i}")).collect();
        let env: Vec<_> = (0..30).map(|i| json!({"name": format!("V{i}"), "value": "x"})).collect();
        let containers: Vec<_> =
            (0..20).map(|i| json!({"name": format!("c{i}"), "image": "app", "env": env})).collect();
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "big", "annotations": {"idtoken.dev/inject": names.join(",")}},
            "spec": {"containers": containers},
        });
        let created = create(&world, "shop", &pod).await.unwrap();
        let last = &created["spec"]["containers"][19];
        assert_eq!(last["env"].as_array().unwrap().len(), 31 + bindings);
        assert_eq!(last["volumeMounts"][0]["name"], "idtoken");
        assert_eq!(created["spec"]["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), bindings);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_another_policy_adds_afterwards_is_completed() {
    let world = with_policy().await;
    // It is asked after ours: policies are asked in the order of their names.
    let expression = "object.spec.containers.exists(c, c.name == 'mesh') ? [] : \
                      [JSONPatch{op: 'add', path: '/spec/containers/-', value: Object.spec.containers{name: 'mesh', image: 'mesh'}}]";
    world.apply(&[
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "zz-mesh"}, "spec": {
            "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]},
            ]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        }}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "zz-mesh"},
            "spec": {"policyName": "zz-mesh"}}),
    ]);
    let pod = annotated(&json!({"inject": "orders"}));
    let created = wait_for("the other policy to be in force", SOON, || async {
        let created = create(&world, "shop", &pod).await.map_err(anyhow::Error::msg)?;
        anyhow::ensure!(created["spec"]["containers"].as_array().unwrap().len() == 2, "{created}");
        Ok(created)
    });
    let created = created.await.unwrap();
    let of = |name: &str| {
        let containers = created["spec"]["containers"].as_array().unwrap();
        containers.iter().find(|container| container["name"] == name).unwrap()
    };
    assert_eq!(of("mesh")["volumeMounts"], of("app")["volumeMounts"]);
    assert_eq!(of("mesh")["env"], of("app")["env"]);
    assert_eq!(of("mesh")["env"].as_array().unwrap().len(), 3);
    world.end().await;
}

/// The API server asks policies first and webhooks after them, and then the policies once more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn whatever_a_webhook_does_afterwards_the_pod_is_whole_in_the_end() {
    let world = with_policy().await;
    let other = OtherWebhook::start(by_label).await;
    world.apply(&[other.registration("other")]);
    wait_for("the other webhook to be called", SOON, || async {
        let _ = create(&world, "shop", &other_webhook::pod("nothing")).await;
        anyhow::ensure!(other.calls() > 0, "it was not asked");
        Ok(())
    })
    .await
    .unwrap();
    for behaviour in ["mesh", "anew", "volume", "status"] {
        let created = create(&world, "shop", &other_webhook::pod(behaviour)).await.unwrap();
        is_whole(&created, "policy");
    }
    // Without our annotations nothing is asked for any more; what was added stays.
    let stripped = create(&world, "shop", &other_webhook::pod("annotations")).await.unwrap();
    assert_eq!(stripped["metadata"]["annotations"], json!({"example.com/own": "x"}));
    let refusal = create(&world, "shop", &other_webhook::pod("same-name")).await.unwrap_err();
    assert!(refusal.contains(r#"spec.volumes[2].name: Duplicate value: "idtoken""#), "{refusal}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn pods_that_ask_for_nothing_and_pods_of_the_system_are_left_alone() {
    let world = with_policy().await;
    let malformed = annotated(&json!({"inject": "//"}));
    for namespace in ["gke-managed-system", "gke-managed-of-the-future", "gke-gmp-system", "sandbox"] {
        world.namespace(namespace).await;
        let created = create(&world, namespace, &malformed).await.unwrap();
        assert_eq!(created["spec"]["volumes"], Value::Null, "{namespace}");
    }
    for namespace in ["kube-system", "kube-public", OPERATOR_NAMESPACE] {
        let created = create(&world, namespace, &malformed).await.unwrap();
        assert_eq!(created["spec"]["volumes"], Value::Null, "{namespace}");
    }
    for annotations in [
        json!({}),
        json!({"containers": "nobody"}),
        json!({"inject": "", "guard": ""}),
        json!({"inject": " "}),
    ] {
        let created = create(&world, "shop", &annotated(&annotations)).await.unwrap();
        assert_eq!(created["spec"]["volumes"], Value::Null, "{annotations}");
        assert_eq!(created["metadata"]["annotations"]["idtoken.dev/status"], Value::Null, "{annotations}");
    }
    world.end().await;
}

/// What `helm test` runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_check_of_an_installation_finds_it_in_order() {
    let world = with_policy().await;
    let (ok, text) = world.run_operator(&["check", "--namespace=shop", "--timeout-seconds=10"]).await;
    assert!(ok, "{text}");
    let (ok, text) =
        world.run_operator(&["check", "--namespace=idtoken-system", "--timeout-seconds=1"]).await;
    assert!(!ok && text.contains("(with injection.mode=policy: the MutatingAdmissionPolicy)"), "{text}");
    world.end().await;
}

/// A world with the policy in force, and no webhook.
async fn with_policy() -> World {
    let world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.install(&["injection.mode=policy", "webhook.excludeNamespaces={sandbox}"]).await;
    let good = annotated(&json!({"inject": "orders"}));
    let bad = annotated(&json!({"inject": "//"}));
    wait_for("the policies to be in force", SOON, || async {
        let created = create(&world, "shop", &good).await.map_err(anyhow::Error::msg)?;
        anyhow::ensure!(created["spec"]["volumes"].is_array(), "the pod is as it was sent");
        anyhow::ensure!(create(&world, "shop", &bad).await.is_err(), "what is malformed is let in");
        Ok(())
    })
    .await
    .unwrap();
    world
}

/// A pod of one container, with annotations under our prefix.
fn annotated(annotations: &Value) -> Value {
    let annotations: serde_json::Map<_, _> = annotations
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (format!("idtoken.dev/{key}"), value.clone()))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

fn patched(pod: &Value, patch: &Value) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

/// A fixture's pod with what the API server insists on, and without what it takes on no creation.
fn whole(pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("pod");
    pod["spec"].as_object_mut().unwrap().remove("ephemeralContainers");
    // For mirror pods, and for sources of the volume that are tokens of the account.
    pod["spec"]["nodeName"] = json!("node");
    pod["spec"]["serviceAccountName"] = json!("default");
    let mut mounted = vec![];
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            container["image"] = json!("image");
            mounted.extend(
                container["volumeMounts"].as_array().into_iter().flatten().map(|m| m["name"].clone()),
            );
        }
    }
    let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    mounted.retain(|name| name != "idtoken" && volumes.iter().all(|volume| volume["name"] != *name));
    volumes.extend(mounted.into_iter().map(|name| json!({"name": name, "emptyDir": {}})));
    pod["spec"]["volumes"] = json!(volumes);
    pod
}

/// What the API server makes of a pod where nobody changes it.
async fn as_stored(world: &World, pod: &Value) -> Value {
    let stored = create(world, OPERATOR_NAMESPACE, pod).await;
    substance(&stored.unwrap_or_else(|error| panic!("{pod}: {error}")))
}

/// All that a pod says but who it is, and by whom it was changed. The order of volumes says nothing.
fn substance(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.sort_by_key(|volume| volume["name"].to_string());
    }
    let mut annotations = pod["metadata"]["annotations"].clone();
    annotations.as_object_mut().unwrap().remove("idtoken.dev/status");
    json!({"spec": spec, "annotations": annotations})
}

fn refusal(message: &str) -> String {
    let policy = "idtoken-operator-injection-annotations";
    format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {message}")
}

/// What comes of a pod, as a dry run; or why it is refused, without the beginning that all refusals share.
async fn create(world: &World, namespace: &str, pod: &Value) -> Result<Value, String> {
    let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"))
        .header("content-type", "application/json")
        .body(pod.to_string().into_bytes())
        .unwrap();
    world.client.request::<Value>(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status
            .message
            .split_once(" is forbidden: ")
            .map_or(status.message.clone(), |(_, why)| why.to_owned()),
        other => other.to_string(),
    })
}
