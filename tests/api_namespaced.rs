//! The operator with Roles in some namespaces and no rights beyond: bindings there are served, those elsewhere are not even
//! seen, and grants come from a file.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use common::{
    AUDIENCE, CALLER, OPERATOR_NAMESPACE, SOON, World, audit::Audit, binding, google_options, http_get,
    impersonation,
};
use idtoken_operator::api::{IdTokenBinding, IdTokenGrant};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use xtask::{cluster::ClusterOptions, process::wait_for};

const ACCOUNT: &str = "namespaced";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn with_roles_alone_listed_namespaces_are_served_and_the_file_grants() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    for namespace in ["shop", "bank", "elsewhere"] {
        world.namespace(namespace).await;
    }
    world.apply(&account(&["shop", "bank"]));
    let (able, _) = world.kubectl(
        &[
            "auth",
            "can-i",
            "list",
            "secrets",
            "-A",
            "--as",
            "system:serviceaccount:idtoken-system:namespaced",
        ],
        None,
    );
    assert!(!able, "it may nothing in the whole cluster");
    // A grant of the cluster, which this operator must not heed.
    world.grant("ignored", &["bank"], &[CALLER]).await;
    let file = world.directory.path().join("grants.yaml");
    fs::write(&file, grant("shop")).unwrap();
    world.account = ACCOUNT.to_owned();
    world.flags = vec![
        "--namespace=shop".to_owned(),
        "--namespace=bank".to_owned(),
        format!("--grants-file={}", file.display()),
    ];
    world.start_controller().await;

    let elsewhere = create(&world, "elsewhere").await;
    create(&world, "bank").await;
    create(&world, "shop").await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    condition(&world, "bank", "Ready=False/NotGranted").await;

    // The file changes, as a ConfigMap's mount does: by a rename.
    replace(&file, &format!("{}---\n{}", grant("shop"), grant("bank")));
    condition(&world, "bank", "Ready=True/TokenFresh").await;
    // A file that can't be used changes nothing, but is told.
    replace(&file, &grant("shop").replace("audiences", "audience"));
    told(&world, "0", "grants.yaml: document 1 (shop), spec.audience: is not known here").await;
    // One that can takes effect again: of bank nothing is granted any more.
    replace(&file, &grant("shop"));
    told(&world, "1", "grants read again").await;
    create_named(&world, "bank", "late").await;
    named_condition(&world, "bank", "late", "Ready=False/NotGranted").await;

    // A deleted Secret is back at once: the watches of Secrets run in each namespace.
    let before = world.secret_of("orders").await.metadata.uid;
    world.delete_secret("orders-idtoken").await;
    world.wait_secret("orders-idtoken", "the Secret", SOON, |s| s.metadata.uid != before).await;
    let api = Api::<IdTokenBinding>::namespaced(world.client.clone(), "elsewhere");
    assert_eq!(api.get("orders").await.unwrap(), elsewhere, "never touched");
    assert!(!world.logs().contains("elsewhere"));
    assert!(!world.logs().contains("Forbidden") && !world.logs().contains("forbidden"), "{}", world.logs());

    // A file that can't be used at the start is refused, with the place.
    replace(&file, &grant("shop").replace("names: [shop]", "selector: {matchLabels: {a: b}}"));
    world.spawn_controller().await;
    let (code, printed) = world.controller_failed().await;
    assert_eq!(code, Some(1));
    let expected = format!(
        "error: grants file {}: document 1 (shop), spec.namespaces.selector: labels of namespaces are not read",
        file.display()
    );
    assert!(printed.contains(&expected), "{printed}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn with_namespaces_alone_grants_still_come_from_the_cluster() {
    let audit = Audit::new();
    let mut world = World::start(google_options(), audit.options()).await;
    for namespace in ["shop", "bank", "elsewhere"] {
        world.namespace(namespace).await;
    }
    world.grant("both", &["shop", "elsewhere"], &[CALLER]).await;
    world.environment = vec![("IDTOKEN_OPERATOR_NAMESPACE".to_owned(), "shop,bank".to_owned())];
    world.apply(&account(&["shop", "bank"]));
    world.apply(&grant_rights());
    world.account = ACCOUNT.to_owned();
    world.start_controller().await;
    let elsewhere = create(&world, "elsewhere").await;
    create(&world, "shop").await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let api = Api::<IdTokenBinding>::namespaced(world.client.clone(), "elsewhere");
    assert_eq!(api.get("orders").await.unwrap(), elsewhere, "never touched");
    let grants = Api::<IdTokenGrant>::all(world.client.clone());
    assert_eq!(
        grants.get("both").await.unwrap().status,
        None,
        "who sees a part only does not tell who uses it"
    );
    assert_eq!(audit.refused(ACCOUNT, 0), BTreeSet::new(), "it asks for nothing else");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_webhook_reads_bindings_of_listed_namespaces_only() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    for namespace in ["shop", "elsewhere"] {
        world.namespace(namespace).await;
    }
    // What the cluster's role gives it in every namespace it gets in one only.
    let (ok, output) = world.kubectl(&["delete", "clusterrolebinding", "idtoken-operator-webhook"], None);
    assert!(ok, "{output}");
    world.apply(&webhook_rights("shop"));
    world.webhook_flags = vec!["--namespace=shop".to_owned()];
    world.start_webhook().await;
    let own = json!({"audience": AUDIENCE, "source": {"metadataServer": {}}, "secret": {"name": "own-name"}});
    for namespace in ["shop", "elsewhere"] {
        let api = Api::<IdTokenBinding>::namespaced(world.client.clone(), namespace);
        api.create(&PostParams::default(), &binding(namespace, "orders", &own)).await.unwrap();
    }
    for (namespace, secret) in [("shop", "own-name"), ("elsewhere", "orders-idtoken")] {
        let pod = json!({
            "metadata": {"name": "app", "annotations": {"idtoken.dev/inject": "orders"}},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        let pods = Api::<Pod>::namespaced(world.client.clone(), namespace);
        let created =
            pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let volumes = serde_json::to_value(created.spec.unwrap().volumes).unwrap();
        assert_eq!(volumes[0]["projected"]["sources"][0]["secret"]["name"], secret, "{namespace}: {volumes}");
    }
    assert!(!world.logs().contains("forbidden"), "{}", world.logs());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_namespace_that_can_not_be_read_keeps_no_other_waiting() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    // A namespace was deleted, and its Roles with it; the operator's flags still name it.
    let flags = vec!["--namespace=shop".to_owned(), "--namespace=bank".to_owned()];
    let file = world.directory.path().join("grants.yaml");
    fs::write(&file, format!("{}---\n{}", grant("shop"), grant("bank"))).unwrap();
    let group = "rbac.authorization.k8s.io";
    let lease = json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
        "metadata": {"name": "elects", "namespace": OPERATOR_NAMESPACE},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "idtoken-operator-controller-lease"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": OPERATOR_NAMESPACE}]});
    world.apply(&account(&["shop"]));
    world.apply(&[lease]);
    let (ok, output) = world.kubectl(&["delete", "clusterrolebinding", "idtoken-operator-webhook"], None);
    assert!(ok, "{output}");
    world.apply(&webhook_rights("shop"));
    world.account = ACCOUNT.to_owned();
    world.webhook_flags = flags.clone();
    world.flags = flags;
    world.flags.extend([
        format!("--grants-file={}", file.display()),
        "--leader-elect".to_owned(),
        format!("--operator-namespace={OPERATOR_NAMESPACE}"),
    ]);
    world.start_controller().await;
    world.start_webhook().await;

    create(&world, "shop").await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    // The controller waits with the bindings of a namespace until it can read its Secrets and credentials.
    for (port, refused) in world.metrics_ports().into_iter().zip([2, 1]) {
        let metrics = http_get(port, "/metrics").await.unwrap();
        assert!(metrics.contains(&format!("\nidtoken_refused_watches {refused}\n")), "{metrics}");
    }
    for what in ["the watch of Secrets", "the watch of credentials", "the watch of bindings"] {
        let told = format!("{what} failed: it is refused");
        let lines: Vec<_> = world.logs().lines().filter(|l| l.contains(&told)).map(str::to_owned).collect();
        assert_eq!(lines.len(), 1, "told once: {lines:?}");
        assert!(lines[0].contains("\"namespace\":\"bank\"") && lines[0].contains("RoleBinding"), "{lines:?}");
    }

    // When it may be read again, it is served without a restart.
    world.namespace("bank").await;
    world.apply(&account(&["bank"]));
    create(&world, "bank").await;
    condition(&world, "bank", "Ready=True/TokenFresh").await;
    assert!(world.metrics().await.contains("\nidtoken_refused_watches 0\n"));
    world.end().await;
}

/// What the webhook needs with `--namespace`: bindings there, and its own registration.
fn webhook_rights(namespace: &str) -> Vec<Value> {
    let webhook = "idtoken-operator-webhook";
    let subject = json!([{"kind": "ServiceAccount", "name": webhook, "namespace": OPERATOR_NAMESPACE}]);
    let group = "rbac.authorization.k8s.io";
    let meta = json!({"name": "webhook", "namespace": namespace});
    let bind = |kind: &str, meta: &Value, role: &str, name: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": meta, "subjects": subject,
            "roleRef": {"apiGroup": group, "kind": role, "name": name}})
    };
    vec![
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": meta, "rules": [
            {"apiGroups": ["idtoken.dev"], "resources": ["idtokenbindings"], "verbs": ["get", "list", "watch"]},
        ]}),
        bind("RoleBinding", &meta, "Role", "webhook"),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "registration"}, "rules": [
            {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
                "resourceNames": ["idtoken-operator"], "verbs": ["get", "list", "watch", "patch"]},
        ]}),
        bind("ClusterRoleBinding", &json!({"name": "registration"}), "ClusterRole", "registration"),
    ]
}

/// What grants of the cluster take, and the only ClusterRole of that mode.
fn grant_rights() -> [Value; 2] {
    let group = "rbac.authorization.k8s.io";
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let rules = [
        rule("idtoken.dev", "idtokengrants", &["list", "watch"]),
        rule("", "namespaces", &["list", "watch"]),
    ];
    let subject = json!({"kind": "ServiceAccount", "name": ACCOUNT, "namespace": OPERATOR_NAMESPACE});
    [
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "grants"}, "rules": rules}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "grants"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "grants"}, "subjects": [subject]}),
    ]
}

/// A ServiceAccount with what docs/security.md lists, in `namespaces` only.
fn account(namespaces: &[&str]) -> Vec<Value> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let rules = json!([
        rule("idtoken.dev", "idtokenbindings", &["list", "watch"]),
        rule("idtoken.dev", "idtokenbindings/status", &["update"]),
        rule("", "secrets", &["get", "list", "watch", "create", "update", "delete"]),
        rule("events.k8s.io", "events", &["create", "patch"]),
    ]);
    let account = json!({"kind": "ServiceAccount", "name": ACCOUNT, "namespace": OPERATOR_NAMESPACE});
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": OPERATOR_NAMESPACE}}),
    ];
    for namespace in namespaces {
        let meta = json!({"name": ACCOUNT, "namespace": namespace});
        objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}));
        objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}, "subjects": [account]}));
    }
    objects
}

/// A grant for the caller's identity, named after its namespace.
fn grant(namespace: &str) -> String {
    format!(
        "apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenGrant\nmetadata: {{name: {namespace}}}\nspec:\n  \
         namespaces: {{names: [{namespace}]}}\n  identities: [{CALLER}]\n  audiences: [{AUDIENCE:?}]\n"
    )
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

async fn create(world: &World, namespace: &str) -> IdTokenBinding {
    create_named(world, namespace, "orders").await
}

async fn create_named(world: &World, namespace: &str, name: &str) -> IdTokenBinding {
    let api = Api::<IdTokenBinding>::namespaced(world.client.clone(), namespace);
    api.create(&PostParams::default(), &binding(namespace, name, &impersonation())).await.unwrap()
}

async fn condition(world: &World, namespace: &str, expected: &str) {
    named_condition(world, namespace, "orders", expected).await;
}

async fn named_condition(world: &World, namespace: &str, name: &str, expected: &str) {
    let api = Api::<IdTokenBinding>::namespaced(world.client.clone(), namespace);
    let found = wait_for(expected, SOON, || async {
        let now = common::conditions(&api.get(name).await?);
        anyhow::ensure!(now.contains(&expected.to_owned()), "it is {now:?}");
        Ok(())
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
}

/// Waits until the metric is `value`, and the log has `words`.
async fn told(world: &World, value: &str, words: &str) {
    let metric = format!("\nidtoken_grants_file_current {value}\n");
    let found = wait_for(words, Duration::from_secs(10), || async {
        let metrics = http_get(world.controller_port, "/metrics").await?;
        anyhow::ensure!(metrics.contains(&metric), "{metrics}");
        anyhow::ensure!(world.logs().contains(words), "it is not logged");
        Ok(())
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
}
