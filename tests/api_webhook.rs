//! The webhook behind a real API server: what an annotated pod comes back with, what is refused and in which words, and
//! which pods never meet it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{World, google_options, http_get, impersonation};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use xtask::cluster::ClusterOptions;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn an_annotated_pod_comes_back_with_volume_mounts_and_variables() {
    let world = with_webhook().await;
    world.bind("orders", &impersonation()).await;
    let mut own = impersonation();
    own["secret"] = json!({"name": "stock-secret", "key": "jwt", "authorizationKey": "header"});
    world.bind("stock.v2", &own).await;

    let (pod, printed) = create(&world, &pod("plain", &json!({"inject": "orders"})));
    assert_eq!(printed, "");
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "idtoken", "projected": {"defaultMode": 0o444, "sources": [
            {"secret": {"name": "orders-idtoken", "items": [{"key": "id_token", "path": "orders/token"}]}},
        ]}}])
    );
    let container = json!({
        "name": "app",
        "image": "app",
        "imagePullPolicy": "Always",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "idtoken", "mountPath": "/var/run/secrets/idtoken.dev", "readOnly": true}],
        "env": [
            {"name": "IDTOKEN_DIR", "value": "/var/run/secrets/idtoken.dev"},
            {"name": "IDTOKEN_FILE_ORDERS", "value": "/var/run/secrets/idtoken.dev/orders/token"},
            {"name": "IDTOKEN_FILE", "value": "/var/run/secrets/idtoken.dev/orders/token"},
        ],
    });
    assert_eq!(pod["spec"]["containers"], json!([container]));

    let every = json!({
        "inject": " orders , stock.v2", "containers": "app, migrate", "mount-path": "/etc/tokens/", "file-mode": "0400",
        "optional": "true",
    });
    let mut asked = self::pod("every", &every);
    asked["spec"]["initContainers"] =
        json!([{"name": "migrate", "image": "migrate"}, {"name": "chown", "image": "chown"}]);
    asked["spec"]["containers"] = json!([
        {"name": "sidecar", "image": "sidecar"},
        {"name": "app", "image": "app", "env": [{"name": "A", "value": "1"}, {"name": "IDTOKEN_DIR", "value": "/mine"}]},
    ]);
    asked["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let (pod, printed) = create(&world, &asked);
    assert_eq!(printed, "");
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            {"name": "data", "emptyDir": {}},
            {"name": "idtoken", "projected": {"defaultMode": 0o400, "sources": [
                {"secret": {"name": "orders-idtoken", "optional": true, "items": [{"key": "id_token", "path": "orders/token"}]}},
                {"secret": {"name": "stock-secret", "optional": true, "items": [
                    {"key": "jwt", "path": "stock.v2/token"},
                    {"key": "header", "path": "stock.v2/authorization"},
                ]}},
            ]}},
        ])
    );
    let mount = json!([{"name": "idtoken", "mountPath": "/etc/tokens", "readOnly": true}]);
    let files = [
        json!({"name": "IDTOKEN_FILE_ORDERS", "value": "/etc/tokens/orders/token"}),
        json!({"name": "IDTOKEN_FILE_STOCK_V2", "value": "/etc/tokens/stock.v2/token"}),
    ];
    let containers = containers(&pod);
    let names: Vec<_> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["migrate", "chown", "sidecar", "app"]);
    assert_eq!(containers[0]["volumeMounts"], mount);
    assert_eq!(
        containers[0]["env"],
        json!([{"name": "IDTOKEN_DIR", "value": "/etc/tokens"}, files[0], files[1]])
    );
    for untouched in [1, 2] {
        assert_eq!(
            (&containers[untouched]["volumeMounts"], &containers[untouched]["env"]),
            (&Value::Null, &Value::Null)
        );
    }
    assert_eq!(containers[3]["volumeMounts"], mount);
    assert_eq!(
        containers[3]["env"],
        json!([{"name": "A", "value": "1"}, {"name": "IDTOKEN_DIR", "value": "/mine"}, files[0], files[1]]),
        "what the author set stays"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn malformed_annotations_are_refused_with_the_annotation_the_value_and_the_mend() {
    let world = with_webhook().await;
    world.bind("orders", &impersonation()).await;
    let with = |key: &str, value: &str| json!({"inject": "orders", key: value});
    for (annotations, message) in [
        (
            json!({"inject": "Orders_1"}),
            r#"annotation idtoken.dev/inject: "Orders_1" contains "Orders_1", which can't be the name of an IdTokenBinding; write names of bindings, separated by commas (lower-case letters, digits, '-' and '.')"#,
        ),
        (
            json!({"inject": "orders,,b"}),
            r#"annotation idtoken.dev/inject: "orders,,b" contains an empty name; write names separated by single commas"#,
        ),
        (
            json!({"inject": "orders,orders"}),
            r#"annotation idtoken.dev/inject: "orders,orders" contains "orders" more than once; write each name once"#,
        ),
        (
            json!({"inject": "a-b,a.b"}),
            r#"annotation idtoken.dev/inject: "a-b,a.b" contains two names that both give the variable IDTOKEN_FILE_A_B; rename one of the bindings, so that they differ in more than '-' and '.'"#,
        ),
        (
            with("containers", "app,nope"),
            r#"annotation idtoken.dev/containers: "app,nope" contains "nope", which is no container of this pod; choose from: app"#,
        ),
        (
            with("mount-path", "relative"),
            r#"annotation idtoken.dev/mount-path: "relative" can't be the directory of the tokens; write an absolute path other than '/', without '..' and ':', such as /var/run/secrets/idtoken.dev"#,
        ),
        (
            with("file-mode", "0999"),
            r#"annotation idtoken.dev/file-mode: "0999" is not a file mode; write three octal digits, such as 0444 or 0400"#,
        ),
        (
            with("optional", "yes"),
            r#"annotation idtoken.dev/optional: "yes" is neither true nor false; write "true" or "false""#,
        ),
        (
            with("agent", "true"),
            r#"annotation idtoken.dev/agent: "true" asks for a part that this version of idtoken-operator does not have yet; remove the annotation"#,
        ),
        (
            with("proxy", "orders=https://orders.example.com"),
            r#"annotation idtoken.dev/proxy: "orders=https://orders.example.com" asks for a part that this version of idtoken-operator does not have yet; remove the annotation"#,
        ),
        (
            with("guard", "front"),
            r#"annotation idtoken.dev/guard: "front" asks for a part that this version of idtoken-operator does not have yet; remove the annotation"#,
        ),
        (
            json!({"guard": "front"}),
            r#"annotation idtoken.dev/guard: "front" asks for a part that this version of idtoken-operator does not have yet; remove the annotation"#,
        ),
    ] {
        let (ok, output) =
            world.kubectl(&["create", "-f", "-"], Some(&pod("refused", &annotations).to_string()));
        let expected = format!(
            "Error from server (BadRequest): error when creating \"STDIN\": admission webhook \"pods.idtoken.dev\" denied the request: {message}\n"
        );
        assert_eq!((ok, output), (false, expected));
    }
    let mut foreign = pod("refused", &json!({"inject": "orders"}));
    foreign["spec"]["volumes"] = json!([{"name": "idtoken", "emptyDir": {}}]);
    let (ok, output) = world.kubectl(&["create", "-f", "-"], Some(&foreign.to_string()));
    assert!(
        !ok && output.contains(r#"annotation idtoken.dev/inject: "orders" needs a volume named "idtoken", but the pod has a volume of another type with that name; rename that volume in the pod"#),
        "{output}"
    );
    assert_eq!(reviews(&world).await, [("refused".to_owned(), 13)]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn pods_that_ask_for_nothing_and_pods_of_the_system_never_reach_it() {
    let world = with_webhook().await;
    let inject = json!({"inject": "orders"});
    for namespace in ["gke-managed-system", "gke-managed-of-the-future", "gke-gmp-system"] {
        world.namespace(namespace).await;
    }
    let elsewhere = |namespace: &str| {
        let mut pod = pod("annotated", &inject);
        pod["metadata"]["namespace"] = json!(namespace);
        pod
    };
    let untouched = [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "shop"}, "spec": pod("", &inject)["spec"]}),
        pod("other-keys", &json!({"containers": "app"})),
        pod("empty", &json!({"inject": "", "guard": ""})),
        elsewhere("kube-system"),
        elsewhere("kube-public"),
        elsewhere("idtoken-system"),
        elsewhere("gke-managed-system"),
        elsewhere("gke-managed-of-the-future"),
        elsewhere("gke-gmp-system"),
    ];
    for pod in &untouched {
        let (created, printed) = create(&world, pod);
        assert_eq!((&created["spec"]["volumes"], printed.as_str()), (&Value::Null, ""));
    }
    assert_eq!(reviews(&world).await, []);

    // An update is none of its business either: only what is created is looked at.
    let (ok, output) =
        world.kubectl(&["annotate", "pod", "-n", "shop", "bare", "idtoken.dev/inject=NOT A NAME"], None);
    assert!(ok, "{output}");
    assert_eq!(reviews(&world).await, []);

    // A mirror pod reaches it, as it asks, and is let through as it is: it runs already.
    let mut mirror = pod("mirror", &inject);
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("hash");
    mirror["spec"]["nodeName"] = json!("node");
    let (created, _) = create(&world, &mirror);
    assert_eq!(created["spec"]["volumes"], Value::Null);
    assert_eq!(reviews(&world).await, [("unchanged".to_owned(), 1)]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn doubts_are_warnings_and_default_names_are_mounted() {
    let world = with_webhook().await;
    let (unknown, printed) = create(&world, &pod("unknown", &json!({"inject": "missing", "mode": "0400"})));
    assert_eq!(
        printed,
        "Warning: annotation \"idtoken.dev/mode\" is not known and has no effect\n\
         Warning: IdTokenBinding \"missing\" is not known (yet): its Secret is mounted by the default name\n"
    );
    assert_eq!(
        unknown["spec"]["volumes"][0]["projected"]["sources"],
        json!([{"secret": {"name": "missing-idtoken", "items": [{"key": "id_token", "path": "missing/token"}]}}])
    );

    world.bind("stale", &impersonation()).await;
    let expired = json!({"status": {"expirationTime": "2026-01-02T03:04:05Z"}});
    let patched = world
        .bindings()
        .patch_status("stale", &PatchParams::default(), &Patch::Merge(expired))
        .await
        .unwrap();
    assert_eq!(patched.status.unwrap().expiration_time.unwrap().as_second(), 1_767_323_045);
    let warned = async || {
        let (pod, printed) = dry_run(&world, &pod("stale", &json!({"inject": "stale"})));
        let expected = "Warning: the token of IdTokenBinding \"stale\" expired at 2026-01-02T03:04:05Z; see its status\n";
        anyhow::ensure!(printed == expected, "{printed}");
        anyhow::ensure!(
            pod["spec"]["volumes"][0]["projected"]["sources"][0]["secret"]["name"] == "stale-idtoken"
        );
        Ok(())
    };
    xtask::process::wait_for("the cache to have the status", common::SOON, warned).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_created_just_before_its_pod_is_found() {
    let world = with_webhook().await;
    // A watch that lags as far as can be: the webhook may not watch any more, and a changed CRD ends what runs.
    let patch = |object: &str, patch: &str| {
        let (ok, output) = world.kubectl(&["patch", object, "--type=json", "-p", patch], None);
        assert!(ok, "{output}");
    };
    patch(
        "clusterrole/idtoken-operator-webhook",
        r#"[{"op": "test", "path": "/rules/0/resources", "value": ["idtokenbindings"]}, {"op": "replace", "path": "/rules/0/verbs", "value": ["get"]}]"#,
    );
    patch(
        "crd/idtokenbindings.idtoken.dev",
        r#"[{"op": "add", "path": "/spec/versions/0/additionalPrinterColumns/-", "value": {"name": "X", "type": "string", "jsonPath": ".x"}}]"#,
    );
    let ended = async || {
        anyhow::ensure!(world.logs().contains("the watch of bindings failed"), "it runs");
        Ok(())
    };
    xtask::process::wait_for("the watch to end", common::SOON, ended).await.unwrap();

    let mut spec = impersonation();
    spec["secret"] = json!({"name": "own-name", "key": "jwt"});
    world.bind("new", &spec).await;
    let (pod, printed) = create(&world, &pod("new", &json!({"inject": "new"})));
    assert_eq!(printed, "");
    assert_eq!(
        pod["spec"]["volumes"][0]["projected"]["sources"],
        json!([{"secret": {"name": "own-name", "items": [{"key": "jwt", "path": "new/token"}]}}])
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_second_application_changes_nothing_and_unknown_fields_survive() {
    let world = with_webhook().await;
    world.bind("orders", &impersonation()).await;

    // A dry run shows the same and leaves nothing behind.
    let annotations = json!({"inject": "orders"});
    let mut asked = pod("first", &annotations);
    // Fields that came after the oldest Kubernetes whose types are compiled in.
    asked["spec"]["hostnameOverride"] = json!("orders.example.com");
    asked["spec"]["containers"][0]["restartPolicyRules"] =
        json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    asked["spec"]["containers"][0]["restartPolicy"] = json!("Never");
    let (dry, _) = dry_run(&world, &asked);
    assert_eq!(dry["spec"]["volumes"][0]["name"], "idtoken");
    assert_eq!(raw_pods(&world), Vec::<Value>::new());

    let (created, _) = create(&world, &asked);
    let [first] = &raw_pods(&world)[..] else { panic!("one pod") };
    assert_eq!(first["spec"], created["spec"]);
    assert_eq!(first["spec"]["hostnameOverride"], "orders.example.com");
    assert_eq!(
        first["spec"]["containers"][0]["restartPolicyRules"],
        json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}])
    );

    // Somebody creates the pod that came back once more.
    let again = json!({"apiVersion": "v1", "kind": "Pod", "spec": first["spec"],
        "metadata": {"name": "second", "namespace": "shop", "annotations": first["metadata"]["annotations"]}});
    let (second, printed) = create(&world, &again);
    assert_eq!((&second["spec"], printed.as_str()), (&first["spec"], ""));
    assert_eq!(reviews(&world).await, [("injected".to_owned(), 2), ("unchanged".to_owned(), 1)]);

    // Another mutation adds a container behind our back: the second call gives it its mount, and nothing twice.
    world.apply(&adds_a_late_container());
    let late = async || {
        let (pod, _) = dry_run(&world, &pod("late", &annotations));
        let names: Vec<_> = containers(&pod).iter().map(|c| c["name"].clone()).collect();
        anyhow::ensure!(names == ["app", "late"], "{names:?}");
        Ok(pod)
    };
    let late = xtask::process::wait_for("the policy to work", common::SOON, late).await.unwrap();
    assert_eq!(late["spec"]["volumes"], first["spec"]["volumes"]);
    for container in containers(&late) {
        assert_eq!(container["volumeMounts"], first["spec"]["containers"][0]["volumeMounts"]);
        assert_eq!(container["env"], first["spec"]["containers"][0]["env"]);
    }
    world.end().await;
}

/// A policy that acts on pods which have been through the webhook already, so that the API server calls it again.
fn adds_a_late_container() -> [Value; 2] {
    // Not as match conditions: a policy that did not match the first time is not asked again.
    let late = r#"
        object.spec.?volumes.orValue([]).exists(v, v.name == 'idtoken') && !object.spec.containers.exists(c, c.name == 'late')
            ? [JSONPatch{op: "add", path: "/spec/containers/-", value: Object.spec.containers{name: "late", image: "late"}}]
            : []"#;
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "late"},
            "spec": {
                "reinvocationPolicy": "IfNeeded",
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                ]},
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": late}}],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "late"},
            "spec": {"policyName": "late"},
        }),
    ]
}

/// A world with the webhook only, and the namespace `shop`.
async fn with_webhook() -> World {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.start_webhook().await;
    world
}

/// A pod of one container in `shop`, with annotations under our prefix.
fn pod(name: &str, annotations: &Value) -> Value {
    let annotations: serde_json::Map<_, _> = annotations
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (format!("idtoken.dev/{key}"), value.clone()))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

/// What came back, and the warnings that kubectl printed.
fn create(world: &World, pod: &Value) -> (Value, String) {
    answered(world, &["create", "-f", "-", "-o", "json"], pod)
}

fn dry_run(world: &World, pod: &Value) -> (Value, String) {
    answered(world, &["create", "-f", "-", "-o", "json", "--dry-run=server"], pod)
}

fn answered(world: &World, args: &[&str], pod: &Value) -> (Value, String) {
    let (ok, output) = world.kubectl(args, Some(&pod.to_string()));
    assert!(ok, "{output}\n{}", xtask::process::tail(&world.logs(), 40));
    // The object is first in the output: all of standard error comes behind.
    let mut objects = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
    let object = objects.next().unwrap().unwrap();
    (object, output[objects.byte_offset()..].trim_start().to_owned())
}

/// The pods of `shop` as the API server writes them.
fn raw_pods(world: &World) -> Vec<Value> {
    let (ok, output) = world.kubectl(&["get", "--raw", "/api/v1/namespaces/shop/pods"], None);
    assert!(ok, "{output}");
    serde_json::from_str::<Value>(&output).unwrap()["items"].as_array().unwrap().clone()
}

/// Init containers and then containers.
fn containers(pod: &Value) -> Vec<Value> {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten().cloned().collect()
}

/// How many reviews ended how, by the webhook's own metrics, without those that never happened.
async fn reviews(world: &World) -> Vec<(String, u64)> {
    let metrics = http_get(world.webhook_health_port, "/metrics").await.unwrap();
    let mut found: Vec<(String, u64)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("idtoken_webhook_reviews_total{result=\"")?.split_once("\"} "))
        .map(|(result, count)| (result.to_owned(), count.parse().unwrap()))
        .collect();
    assert_eq!(found.len(), 7, "{metrics}");
    found.retain(|(_, count)| *count > 0);
    found.sort();
    found
}
