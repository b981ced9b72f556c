//! What the webhook does to pods, whatever they look like: it only adds, once, and beside what the author wrote; also between the
//! changes of other webhooks.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "common/injection.rs"]
mod injection;
#[path = "common/pods.rs"]
mod pods;

use injection::{checked, facts, is_handled, is_whole};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_holds_for_hostile_pods(pod in pods::hostile()) {
        let _ = checked(&pod, &facts, noon());
    }

    #[test]
    fn every_promise_holds_for_sound_pods(pod in pods::accepted()) {
        if let Ok(patched) = checked(&pod, &facts, noon()) && is_handled(&pod) {
            is_whole(&patched, "webhook");
        }
    }

    /// Ours, another, ours again: as the API server calls webhooks with `reinvocationPolicy: IfNeeded`, and whatever runs first.
    #[test]
    fn whatever_another_webhook_does_the_second_call_makes_the_pod_whole(
        pod in pods::accepted(),
        others in prop::collection::vec(prop::sample::select(OTHERS.to_vec()), 0..4),
        first in any::<bool>(),
    ) {
        if checked(&pod, &facts, noon()).is_err() || !is_handled(&pod) {
            return Ok(());
        }
        let mut changed = pod;
        for (index, (_, other)) in others.iter().enumerate() {
            if first || index > 0 {
                changed = checked(&changed, &facts, noon()).unwrap();
            }
            other(&mut changed);
        }
        let last = checked(&changed, &facts, noon()).unwrap();
        is_whole(&last, "webhook");
    }
}

/// The random pods are worth what they cover.
#[test]
fn the_random_pods_reach_every_kind_of_answer() {
    let answers: Vec<_> = pods::sample(&pods::accepted(), 1, 400)
        .iter()
        .map(|pod| (is_handled(pod), checked(pod, &facts, noon())))
        .collect();
    let injected = answers.iter().filter(|(handled, answer)| *handled && answer.is_ok()).count();
    let refused: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.as_ref().err()).collect();
    assert!((100..350).contains(&injected), "{injected} of 400 are injected");
    for key in ["inject", "containers", "mount-path", "file-mode", "optional", "guard", "proxy"] {
        let prefix = format!("annotation idtoken.dev/{key}: ");
        assert!(refused.iter().any(|words| words.starts_with(&prefix)), "none is refused for {key}");
    }
    let hostile = pods::sample(&pods::hostile(), 1, 100);
    let injected =
        hostile.iter().filter(|pod| checked(pod, &facts, noon()).is_ok_and(|patched| patched != **pod));
    assert!(injected.count() > 10);
}

/// Whoever may create pods may write one of megabytes: its patch would be gigabytes. (What the process takes for such pods:
/// `api_webhook_memory.rs`.)
#[test]
fn a_pod_of_megabytes_is_refused_before_its_patch_is_made() {
    let containers =
        |count: usize| -> Vec<Value> { (0..count).map(|i| json!({"name": format!("c{i}")})).collect() };
    let names = |count: usize| (0..count).map(|i| format!("c{i}")).collect::<Vec<_>>().join(",");
    let pod = |inject: &str, chosen: &str, path: &str, count: usize| {
        let annotations = json!({
            "idtoken.dev/inject": inject,
            "idtoken.dev/containers": chosen,
            "idtoken.dev/mount-path": path,
        });
        json!({"metadata": {"annotations": annotations}, "spec": {"containers": containers(count)}})
    };
    let too_large = "annotation idtoken.dev/inject: \"c0\" would make the pod larger than the API server takes; \
                     name fewer bindings, or choose fewer containers by idtoken.dev/containers";
    let long = format!("/{}", "x".repeat(200_000));
    assert_eq!(checked(&pod("c0", "", "", 10_000), &facts, noon()).unwrap_err(), too_large);
    assert_eq!(checked(&pod("c0", "", &long, 10), &facts, noon()).unwrap_err(), too_large);
    let every = names(10_000);
    let many = checked(&pod("c0", &every, "", 10_000), &facts, noon()).unwrap_err();
    assert!(many.ends_with("names 10000 containers; name at most 1000 of them in one pod"), "{many}");
    let unknown = checked(&pod("c0", "nobody", "", 10_000), &facts, noon()).unwrap_err();
    assert!(unknown.ends_with('…') && unknown.len() < 500, "{unknown}");

    // What somebody might really have is far below it.
    assert!(checked(&pod(&names(64), "", "", 100), &facts, noon()).is_ok());
    assert!(checked(&pod("c0", "c7", "", 10_000), &facts, noon()).is_ok());
}

/// What other webhooks do to a pod.
type Other = (&'static str, fn(&mut Value));
const OTHERS: [Other; 9] = [
    ("nothing", |_| {}),
    ("a mesh that appends its containers", |pod| {
        push(&mut pod["spec"]["containers"], json!({"name": "mesh", "image": "mesh"}));
        push(&mut pod["spec"]["initContainers"], json!({"name": "mesh-init", "image": "mesh"}));
        push(&mut pod["spec"]["volumes"], json!({"name": "mesh", "emptyDir": {}}));
    }),
    ("a mesh that puts its own first", |pod| {
        for list in ["containers", "initContainers", "volumes"] {
            if let Some(all) = pod["spec"][list].as_array_mut() {
                all.insert(0, json!({"name": format!("first-{list}")}));
            }
        }
    }),
    ("one that writes the containers anew, as it knows them", |pod| {
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                *container = json!({"name": container["name"], "image": container["image"]});
            }
        }
    }),
    ("one that drops volumes and keeps their mounts", |pod| pod["spec"]["volumes"] = Value::Null),
    ("one that empties env", |pod| {
        for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
            container["env"] = json!([]);
        }
    }),
    ("one whose volumes are called nearly like ours", |pod| {
        push(&mut pod["spec"]["volumes"], json!({"name": "idtoken-2", "emptyDir": {}}));
        push(&mut pod["spec"]["volumes"], json!({"name": "idtoken.dev", "emptyDir": {}}));
    }),
    ("one that takes the status away", |pod| {
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove("idtoken.dev/status");
    }),
    ("one that turns the order around", |pod| {
        for list in ["containers", "initContainers", "volumes"] {
            if let Some(all) = pod["spec"][list].as_array_mut() {
                all.reverse();
            }
        }
    }),
];

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}
