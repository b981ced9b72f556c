#![allow(clippy::unwrap_used, clippy::panic)]
use serde_json::{Value, json};

use super::*;

fn pods() -> Pods {
    Pods::new(Excluded::new(["kube-system".to_owned()]), "2026-11-22T12:00:00.9Z".parse().unwrap())
}

/// A pod with a UID; of the owner that is named, if one is.
fn pod(uid: &str, annotations: &Value, owner: Option<&str>) -> PartialObjectMeta<Pod> {
    let owners = owner.map(|uid| {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9f", "uid": uid, "controller": true}])
    });
    let metadata = json!({
        "name": format!("web-{uid}"),
        "namespace": "shop",
        "uid": uid,
        "creationTimestamp": "2026-11-22T12:00:00Z",
        "annotations": annotations,
        "ownerReferences": owners,
    });
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap()
}

fn unmarked(uid: &str) -> PartialObjectMeta<Pod> {
    pod(uid, &json!({"idtoken.dev/inject": "orders"}), Some("owner"))
}

fn marked(uid: &str, owner: Option<&str>) -> PartialObjectMeta<Pod> {
    pod(uid, &json!({"idtoken.dev/inject": "orders", "idtoken.dev/status": "{}"}), owner)
}

fn target(uid: &str) -> Target {
    Target { namespace: "shop".to_owned(), name: format!("web-{uid}"), uid: uid.to_owned() }
}

#[test]
fn only_pods_that_ask_and_bear_no_mark_are_looked_at_and_once() {
    let mut pods = pods();
    for pod in [unmarked("1"), marked("2", None), pod("3", &json!({"a": "b"}), None), unmarked("1")] {
        pods.see(0, Event::Apply(pod));
    }
    assert_eq!(pods.next(), Some(Task::Look(target("1"))));
    assert!(!pods.has_tasks() && pods.next().is_none());
    assert_eq!(pods.unmarked.len(), 1, "of the others nothing is remembered");
    pods.judged(&target("1"), true);
    pods.see(0, Event::Apply(unmarked("1")));
    assert!(!pods.has_tasks(), "what was found out holds as long as the pod is there");
    assert_eq!(pods.lacking(), 1);
}

#[test]
fn the_number_falls_when_a_pod_goes_or_gets_its_mark() {
    let mut pods = pods();
    for uid in ["1", "2", "3"] {
        pods.see(0, Event::Apply(unmarked(uid)));
        pods.judged(&target(uid), uid != "3");
    }
    assert_eq!(pods.lacking(), 2);
    pods.see(0, Event::Delete(unmarked("1")));
    assert_eq!(pods.lacking(), 1);
    pods.see(0, Event::Delete(unmarked("3")));
    assert_eq!(pods.lacking(), 1, "this one had all");
    pods.see(0, Event::Apply(marked("2", None)));
    assert_eq!((pods.lacking(), pods.unmarked.len()), (0, 0));
}

#[test]
fn what_a_new_list_does_not_bring_is_gone_and_the_rest_stays_as_it_was_judged() {
    let mut pods = pods();
    for (part, uid) in [(0, "1"), (0, "2"), (1, "3")] {
        pods.see(part, Event::Apply(unmarked(uid)));
        pods.judged(&target(uid), true);
    }
    while pods.next().is_some() {}
    pods.see(0, Event::Init);
    pods.see(0, Event::InitApply(unmarked("2")));
    pods.see(0, Event::InitApply(unmarked("4")));
    assert_eq!(pods.lacking(), 3, "the list is not over");
    pods.see(0, Event::InitDone);
    assert_eq!(pods.lacking(), 2, "the part of another watch is not concerned");
    assert_eq!(pods.next(), Some(Task::Look(target("4"))));
    assert_eq!(pods.next(), None);
}

#[test]
fn a_pod_that_goes_before_its_turn_is_not_read_and_one_that_could_not_be_read_has_another_turn() {
    let mut pods = pods();
    for uid in ["1", "2"] {
        pods.see(0, Event::Apply(unmarked(uid)));
    }
    pods.see(0, Event::Delete(unmarked("1")));
    assert_eq!(pods.next(), Some(Task::Look(target("2"))));
    pods.again(target("2"));
    assert_eq!(pods.next(), Some(Task::Look(target("2"))));
    pods.gone(&target("2"));
    pods.judged(&target("2"), true);
    assert_eq!((pods.lacking(), pods.next()), (0, None));
}

#[test]
fn an_owner_is_told_once_of_each_kind() {
    let mut pods = pods();
    for uid in ["1", "2"] {
        pods.see(0, Event::Apply(marked(uid, Some("owner"))));
    }
    let Some(Task::Confirm { owner, note }) = pods.next() else { panic!("nobody is told") };
    assert_eq!(
        note,
        "pod web-1 has got the tokens of IdTokenBindings orders; said once for all pods of its owner"
    );
    assert_eq!(
        *owner,
        ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some("ReplicaSet".to_owned()),
            name: Some("web-7d9f".to_owned()),
            namespace: Some("shop".to_owned()),
            uid: Some("owner".to_owned()),
            ..ObjectReference::default()
        }
    );
    assert_eq!(pods.next(), None);
    assert_eq!(pods.first_of_owner(&unmarked("3").metadata), Some(*owner));
    assert_eq!(pods.first_of_owner(&unmarked("4").metadata), None);
    pods.see(0, Event::Apply(marked("5", None)));
    assert_eq!(pods.next(), None, "nobody owns it");
}

#[test]
fn of_pods_from_before_the_start_nothing_good_is_told() {
    let mut pods = pods();
    let mut old = marked("1", Some("owner"));
    old.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-11-22T11:59:59Z")).unwrap());
    pods.see(0, Event::InitApply(old));
    assert_eq!(pods.next(), None);
}

#[test]
fn memory_of_what_was_told_is_bounded() {
    let mut told = Told::default();
    for i in 0..5000 {
        assert!(told.is_new(INJECTED, &i.to_string()));
    }
    assert_eq!((told.set.len(), told.order.len()), (4096, 4096));
    assert!(!told.is_new(INJECTED, "904") && told.is_new(INJECTED, "903"));
    assert!(told.is_new(SKIPPED, "904"));
}
