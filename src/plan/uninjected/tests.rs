#![allow(clippy::unwrap_used)]
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{ASKS, Excluded, Finding, Trace, confirmation, finding, trace};

fn pod(annotations: &Value, spec: &Value) -> Pod {
    let pod = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "annotations": annotations},
        "spec": spec,
    });
    serde_json::from_value(pod).unwrap()
}

fn asking(spec: &Value) -> Pod {
    pod(&json!({"idtoken.dev/inject": "orders, stock"}), spec)
}

fn complaint(pod: &Pod) -> Option<String> {
    match finding(pod) {
        Finding::Lacking(complaint) => Some(complaint),
        Finding::Complete | Finding::Nothing => None,
    }
}

fn volume(paths: &[&str]) -> Value {
    let sources: Vec<_> = paths
        .iter()
        .map(|path| json!({"secret": {"name": "x", "items": [{"key": "id_token", "path": path}]}}))
        .collect();
    json!([{"name": "idtoken", "projected": {"sources": sources}}])
}

fn excluded() -> Excluded {
    Excluded::new(["kube-system", "gke-managed-*", ""].map(str::to_owned))
}

#[test]
fn names_and_beginnings_are_excluded_and_nothing_else() {
    let excluded = excluded();
    for (namespace, is) in [
        ("kube-system", true),
        ("kube-system-2", false),
        ("gke-managed-", true),
        ("gke-managed-cim", true),
        ("gke-manage", false),
        ("shop", false),
    ] {
        assert_eq!(excluded.contains(namespace), is, "{namespace}");
    }
}

#[test]
fn metadata_tell_whom_to_look_at() {
    let of = |annotations: Value| trace(&pod(&annotations, &json!({"containers": []})).metadata, &excluded());
    for (annotations, expected) in [
        (json!({}), Trace::None),
        (json!({"idtoken.dev/inject": "  "}), Trace::None),
        (json!({"idtoken.dev/status": "{}"}), Trace::None),
        (json!({"idtoken.dev/inject": "orders"}), Trace::Unanswered),
        (json!({"idtoken.dev/inject": "orders", "idtoken.dev/status": " "}), Trace::Unanswered),
        (json!({"idtoken.dev/inject": "orders", "idtoken.dev/status": "{}"}), Trace::Marked),
        (json!({"idtoken.dev/guard": "orders"}), Trace::Unanswered),
        (json!({"idtoken.dev/guard": "orders", "idtoken.dev/status": "{}"}), Trace::Marked),
        (json!({"idtoken.dev/agent": "true", "idtoken.dev/proxy": "orders"}), Trace::None),
        (json!({"idtoken.dev/inject": "orders", "kubernetes.io/config.mirror": "3a5f"}), Trace::None),
    ] {
        assert_eq!(of(annotations.clone()), expected, "{annotations}");
    }
    let mut elsewhere = asking(&json!({"containers": []})).metadata;
    elsewhere.namespace = Some("gke-managed-system".to_owned());
    assert_eq!(trace(&elsewhere, &excluded()), Trace::None);
    let mut leaving = json!(asking(&json!({"containers": []})).metadata);
    leaving["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
    assert_eq!(trace(&serde_json::from_value(leaving).unwrap(), &excluded()), Trace::None);
}

#[test]
fn pods_that_have_it_all_are_complete_and_nothing_is_known_of_those_that_ask_for_nothing() {
    let mount = json!([{"name": "idtoken", "mountPath": "/tokens"}]);
    let own = json!([{"name": "own", "mountPath": "/var/run/secrets/idtoken.dev/"}]);
    let both = volume(&["orders/token", "stock/token"]);
    for spec in [
        json!({"volumes": both, "containers": [{"name": "app", "volumeMounts": mount}]}),
        json!({"volumes": both, "containers": [{"name": "app", "volumeMounts": own}, {"name": "web", "volumeMounts": mount}]}),
        json!({"volumes": both, "containers": [{"name": "app", "volumeMounts": mount}], "initContainers": [{"name": "init", "volumeMounts": mount}]}),
    ] {
        assert_eq!(finding(&asking(&spec)), Finding::Complete, "{spec}");
    }
    let blank = pod(&json!({"idtoken.dev/inject": " "}), &json!({"containers": [{"name": "app"}]}));
    assert_eq!(finding(&blank), Finding::Nothing);
}

#[test]
fn each_container_that_is_meant_and_has_no_mount_is_named() {
    let mount = json!([{"name": "idtoken", "mountPath": "/tokens"}]);
    let spec = json!({
        "volumes": volume(&["orders/token", "stock/token"]),
        "initContainers": [{"name": "init"}],
        "containers": [{"name": "app"}, {"name": "web", "volumeMounts": mount}],
    });
    let said = complaint(&asking(&spec)).unwrap();
    assert!(said.contains("but has no mount of the volume \"idtoken\" in init, app. "), "{said}");
    let some = json!({"idtoken.dev/inject": "orders", "idtoken.dev/containers": "web"});
    assert_eq!(finding(&pod(&some, &spec)), Finding::Complete);
}

/// A mark on the pod does not count where its containers have something else in the tokens' place.
#[test]
fn a_pod_whose_mounts_are_all_of_another_kind_has_nothing() {
    let own = json!([{"name": "own", "mountPath": "/var/run/secrets/idtoken.dev"}]);
    let spec =
        json!({"volumes": volume(&["orders/token"]), "containers": [{"name": "app", "volumeMounts": own}]});
    let marked = json!({"idtoken.dev/inject": "orders", "idtoken.dev/status": "{}"});
    assert!(
        complaint(&pod(&marked, &spec)).unwrap().contains("but has no mount of the volume \"idtoken\". ")
    );
}

#[test]
fn what_is_missing_is_said_with_the_mend() {
    let lacks = |spec: Value| complaint(&asking(&spec)).unwrap();
    assert_eq!(
        lacks(json!({"containers": [{"name": "app"}]})),
        "asks for the tokens of IdTokenBindings orders, stock, but has no volume \"idtoken\" with the token of orders. Nothing \
         injected when it was created, or that was taken away again, or the annotation came later than the pod (it belongs in the \
         template). Delete it and create it again when injection is at work"
    );
    let half = json!({"volumes": volume(&["orders/token"]), "containers": [{"name": "app"}]});
    assert!(lacks(half).contains("has no volume \"idtoken\" with the token of stock. "));
    let both = volume(&["orders/token", "stock/token"]);
    for mounts in [
        json!([]),
        json!([{"name": "other", "mountPath": "/x"}]),
        json!([{"name": "idtoken", "mountPath": "/x", "subPath": "orders/token"}]),
    ] {
        let spec = json!({"volumes": both, "containers": [{"name": "app", "volumeMounts": mounts}]});
        assert!(lacks(spec).contains("has no mount of the volume \"idtoken\". "));
    }
    let chosen = json!({"idtoken.dev/inject": "orders", "idtoken.dev/containers": "app"});
    let mount = json!([{"name": "idtoken", "mountPath": "/tokens"}]);
    let spec = json!({"volumes": volume(&["orders/token"]), "containers": [{"name": "app"}, {"name": "web", "volumeMounts": mount}]});
    assert!(complaint(&pod(&chosen, &spec)).unwrap().contains("no mount of the volume"));
}

#[test]
fn malformed_annotations_are_named() {
    let annotations = json!({"idtoken.dev/inject": "orders", "idtoken.dev/file-mode": "9"});
    assert_eq!(
        complaint(&pod(&annotations, &json!({"containers": [{"name": "app"}]}))).unwrap(),
        "asks for tokens in a way that is refused, but nothing looked at it when it was created, or the annotation came later: \
         annotation idtoken.dev/file-mode: \"9\" is not a file mode; write three octal digits, such as 0444 or 0400. Then: Delete it and create it again when injection is at work"
    );
}

/// One that counts on its guard runs without it.
#[test]
fn a_guard_that_is_not_there_is_named() {
    let spec = json!({"containers": [{"name": "app"}]});
    let said = complaint(&pod(&json!({"idtoken.dev/guard": "orders"}), &spec)).unwrap();
    let why = "annotation idtoken.dev/guard: \"orders\" asks for a part that this version of idtoken-operator does not have yet; remove the \
               annotation. Then: ";
    assert!(said.contains(why), "{said}");
}

/// The search is for what injection is shown, and for nothing else.
#[test]
fn what_is_looked_for_is_what_the_chart_shows_to_the_webhook() {
    let chart = include_str!("../../../charts/idtoken-operator/templates/_injection.tpl");
    assert!(chart.contains("['idtoken.dev/inject', 'idtoken.dev/guard'].exists(k, k in object"));
    assert_eq!(ASKS, ["idtoken.dev/inject", "idtoken.dev/guard"]);
}

#[test]
fn of_pods_that_have_ended_nothing_is_said() {
    for (phase, lacks) in [("Pending", true), ("Running", true), ("Succeeded", false), ("Failed", false)] {
        let mut pod = json!(asking(&json!({"containers": [{"name": "app"}]})));
        pod["status"] = json!({"phase": phase});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(finding(&pod) != Finding::Nothing, lacks, "{phase}");
    }
}

#[test]
fn the_mend_is_that_of_the_owner() {
    let of = |kind: &str, name: &str, labels: Value| {
        let mut pod = json!(asking(&json!({"containers": [{"name": "app"}]})));
        pod["metadata"]["labels"] = labels;
        pod["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "0"},
            {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true},
        ]);
        let said = complaint(&serde_json::from_value(pod).unwrap()).unwrap();
        said.split("(it belongs in the template). ").nth(1).unwrap().to_owned()
    };
    let hash = json!({"pod-template-hash": "7d9f"});
    let restart = "When injection is at work: kubectl -n shop rollout restart";
    assert_eq!(of("ReplicaSet", "web-7d9f", hash.clone()), format!("{restart} deployment/web"));
    assert_eq!(of("StatefulSet", "db", json!({})), format!("{restart} statefulset/db"));
    assert_eq!(of("DaemonSet", "agent", json!({})), format!("{restart} daemonset/agent"));
    let delete = "When injection is at work: kubectl -n shop delete pod web-1";
    assert_eq!(
        of("ReplicaSet", "mine", hash.clone()),
        format!("{delete} (its ReplicaSet mine makes another)")
    );
    assert_eq!(of("Job", "run-7d9f", hash), format!("{delete} (its Job run-7d9f makes another)"));
}

#[test]
fn a_confirmation_names_pod_and_bindings() {
    let pod = asking(&json!({"containers": []}));
    assert_eq!(
        confirmation(&pod.metadata),
        "pod web-1 has got the tokens of IdTokenBindings orders, stock; said once for all pods of its owner"
    );
}
