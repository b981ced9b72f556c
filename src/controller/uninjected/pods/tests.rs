#![allow(clippy::unwrap_used)]
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

fn old(mut pod: PartialObjectMeta<Pod>) -> PartialObjectMeta<Pod> {
    pod.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-11-22T11:59:59Z")).unwrap());
    pod
}

fn target(uid: &str) -> Target {
    Target { namespace: "shop".to_owned(), name: format!("web-{uid}"), uid: uid.into() }
}

/// The UIDs of the pods that would be read now, in order.
fn reads(pods: &mut Pods) -> Vec<String> {
    let now = Instant::now();
    std::iter::from_fn(|| pods.next(now)).map(|pod| pod.uid.to_string()).collect()
}

fn lacks(pods: &mut Pods, uid: &str) {
    pods.lacks(&target(uid), &unmarked(uid).metadata);
}

#[test]
fn pods_that_ask_are_read_once_and_of_others_nothing_is_remembered() {
    let mut pods = pods();
    for pod in [unmarked("1"), pod("3", &json!({"a": "b"}), None), unmarked("1")] {
        pods.see(0, Event::Apply(pod));
    }
    assert_eq!(pods.next(Instant::now()), Some(target("1")));
    assert!(!pods.has_tasks());
    assert_eq!((pods.known.len(), pods.owners.len()), (1, 1));
    lacks(&mut pods, "1");
    pods.see(0, Event::Apply(unmarked("1")));
    assert!(!pods.has_tasks(), "what was found out holds as long as the pod is there");
    assert_eq!(pods.lacking(), 1);
}

#[test]
fn the_number_falls_when_a_pod_goes_and_not_when_somebody_marks_it() {
    let mut pods = pods();
    for uid in ["1", "2"] {
        pods.see(0, Event::Apply(unmarked(uid)));
        lacks(&mut pods, uid);
    }
    pods.see(0, Event::Apply(unmarked("3")));
    assert_eq!(pods.complete(&target("3"), &unmarked("3").metadata), None, "its author has mounted all");
    assert_eq!(pods.lacking(), 2);
    pods.see(0, Event::Apply(marked("2", Some("owner"))));
    assert_eq!(pods.lacking(), 2);
    pods.see(0, Event::Delete(unmarked("3")));
    assert_eq!(pods.lacking(), 2);
    pods.see(0, Event::Delete(unmarked("1")));
    pods.see(0, Event::Apply(pod("2", &json!({}), None)));
    assert_eq!((pods.lacking(), pods.known.len(), pods.owners.len()), (0, 0, 0));
}

#[test]
fn what_a_new_list_does_not_bring_is_gone_and_the_rest_stays_as_it_was_judged() {
    let mut pods = pods();
    for (part, uid) in [(0, "1"), (0, "2"), (1, "3")] {
        pods.see(part, Event::Apply(unmarked(uid)));
        lacks(&mut pods, uid);
    }
    assert_eq!(reads(&mut pods), Vec::<String>::new());
    pods.see(0, Event::Init);
    pods.see(0, Event::InitApply(unmarked("2")));
    pods.see(0, Event::InitApply(unmarked("4")));
    assert_eq!(pods.lacking(), 3, "the list is not over");
    pods.see(0, Event::InitDone);
    assert_eq!(pods.lacking(), 2, "the part of another watch is not concerned");
    assert_eq!(reads(&mut pods), ["4"]);
}

#[test]
fn a_pod_that_goes_before_its_turn_is_not_read() {
    let mut pods = pods();
    for uid in ["1", "2"] {
        pods.see(0, Event::Apply(unmarked(uid)));
    }
    pods.see(0, Event::Delete(unmarked("1")));
    assert_eq!(reads(&mut pods), ["2"]);
    pods.gone(&target("2"));
    lacks(&mut pods, "2");
    assert_eq!((pods.lacking(), pods.known.len()), (0, 0));
}

#[test]
fn what_can_not_be_read_waits_twice_as_long_each_time_and_keeps_nobody_waiting() {
    let mut pods = pods();
    pods.see(0, Event::Apply(unmarked("1")));
    let mut now = Instant::now();
    assert_eq!(pods.next(now), Some(target("1")));
    for wait in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
        pods.again(&target("1"), now);
        assert_eq!(pods.next(now + Duration::from_millis(wait * 1000 - 1)), None);
        assert!(pods.has_tasks());
        now += Duration::from_secs(wait);
        assert_eq!(pods.next(now), Some(target("1")), "after {wait} s");
    }
    pods.again(&target("1"), now);
    pods.see(0, Event::Apply(unmarked("2")));
    assert_eq!(pods.next(now), Some(target("2")));
}

#[test]
fn of_pods_with_a_mark_one_of_each_owner_is_read_after_all_those_without() {
    let mut pods = pods();
    for pod in [marked("1", Some("a")), marked("2", Some("a")), marked("3", Some("b")), marked("4", None)] {
        pods.see(0, Event::Apply(pod));
    }
    pods.see(0, Event::Apply(unmarked("5")));
    assert_eq!(reads(&mut pods), ["5", "1", "3", "4"]);
    for _ in 0..3 {
        pods.see(0, Event::Apply(marked("1", Some("a"))));
        pods.see(0, Event::Apply(marked("2", Some("a"))));
    }
    assert!(!pods.has_tasks());
}

#[test]
fn a_false_mark_has_all_pods_of_its_owner_read() {
    let mut pods = pods();
    for pod in
        [marked("1", Some("a")), marked("2", Some("a")), marked("3", Some("b")), marked("4", Some("b"))]
    {
        pods.see(0, Event::Apply(pod));
    }
    assert_eq!(reads(&mut pods), ["1", "3"]);
    lacks(&mut pods, "1");
    pods.see(0, Event::Apply(marked("5", Some("a"))));
    assert_eq!(reads(&mut pods), ["2", "5"]);
    lacks(&mut pods, "2");
    assert_eq!(pods.lacking(), 2);
}

#[test]
fn another_pod_is_read_in_the_place_of_one_that_goes_before_its_turn() {
    let mut pods = pods();
    for uid in ["1", "2"] {
        pods.see(0, Event::Apply(marked(uid, Some("a"))));
    }
    pods.see(0, Event::Delete(marked("1", Some("a"))));
    assert_eq!(reads(&mut pods), ["2"]);
    pods.see(0, Event::Apply(unmarked_of("2", "a")));
    assert!(!pods.has_tasks(), "it is being read");
    pods.see(0, Event::Apply(marked("3", Some("a"))));
    pods.see(0, Event::Apply(unmarked_of("3", "a")));
    assert_eq!(reads(&mut pods), ["3"], "its mark was taken away");
}

fn unmarked_of(uid: &str, owner: &str) -> PartialObjectMeta<Pod> {
    pod(uid, &json!({"idtoken.dev/inject": "orders"}), Some(owner))
}

#[test]
fn an_owner_is_told_once_of_each_kind_and_only_of_what_was_read() {
    let mut pods = pods();
    for uid in ["1", "2"] {
        pods.see(0, Event::Apply(marked(uid, Some("owner"))));
    }
    let owner = ObjectReference {
        api_version: Some("apps/v1".to_owned()),
        kind: Some("ReplicaSet".to_owned()),
        name: Some("web-7d9f".to_owned()),
        namespace: Some("shop".to_owned()),
        uid: Some("owner".to_owned()),
        ..ObjectReference::default()
    };
    let metadata = unmarked("1").metadata;
    assert_eq!(pods.complete(&target("1"), &metadata), Some(owner.clone()));
    assert_eq!(pods.complete(&target("2"), &metadata), None);
    for uid in ["3", "4"] {
        pods.see(0, Event::Apply(unmarked(uid)));
    }
    assert_eq!(pods.lacks(&target("3"), &metadata), Some(owner));
    assert_eq!(pods.lacks(&target("4"), &metadata), None);
    pods.see(0, Event::Apply(marked("5", None)));
    assert_eq!(pods.complete(&target("5"), &marked("5", None).metadata), None, "nobody owns it");
}

#[test]
fn of_pods_from_before_the_term_nothing_good_is_told_and_the_first_one_after_is_read_again() {
    let mut pods = pods();
    for pod in [old(marked("1", Some("a"))), old(marked("2", Some("a")))] {
        pods.see(0, Event::InitApply(pod));
    }
    assert_eq!(reads(&mut pods), ["1"]);
    let metadata = unmarked("1").metadata;
    assert_eq!(pods.complete(&target("1"), &metadata), None);
    for uid in ["3", "4"] {
        pods.see(0, Event::Apply(marked(uid, Some("a"))));
    }
    assert_eq!(reads(&mut pods), ["3"]);
    assert!(pods.complete(&target("3"), &metadata).is_some());
}

/// As many owners as there may be, each of which has a pod at a time: nothing grows with those that are gone, none is told twice.
#[test]
fn what_is_remembered_is_of_pods_that_are_there() {
    let mut pods = pods();
    for i in 0..5000 {
        let uid = i.to_string();
        pods.see(0, Event::Apply(marked(&uid, Some(&uid))));
        pods.see(0, Event::Apply(unmarked(&format!("u{i}"))));
        if i >= 10 {
            pods.see(0, Event::Delete(marked(&(i - 10).to_string(), None)));
            pods.see(0, Event::Delete(unmarked(&format!("u{}", i - 10))));
        }
    }
    assert_eq!((pods.known.len(), pods.owners.len()), (20, 11));
    assert!(
        pods.looks.len() <= 44 && pods.samples.len() <= 44,
        "{} {}",
        pods.looks.len(),
        pods.samples.len()
    );
    for i in 5000..10_000 {
        let uid = i.to_string();
        pods.see(0, Event::Apply(marked(&uid, Some(&uid))));
    }
    assert_eq!(reads(&mut pods).len(), 5020);
    for i in 5000..10_000 {
        pods.see(0, Event::Apply(marked(&i.to_string(), Some(&i.to_string()))));
    }
    assert!(!pods.has_tasks());
}
