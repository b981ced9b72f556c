//! What must hold of every injection, whatever the pod looks like. Property tests, tests on a real API server and fuzz targets
//! all ask it.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic, unreachable_pub)]

use idtoken_operator::{
    plan::inject::{BindingFacts, Injection, Pod, inject},
    webhook::review::Request,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Every second name is a binding: those of an even length.
pub fn facts(name: &str) -> Option<BindingFacts> {
    name.len().is_multiple_of(2).then(|| BindingFacts {
        secret_name: format!("{name}-secret"),
        key: "jwt".to_owned(),
        authorization_key: name.len().is_multiple_of(4).then(|| "header".to_owned()),
        expiration_time: name.starts_with('o').then(|| "2020-01-01T00:00:00Z".parse().unwrap()),
    })
}

/// The pod as it is after the injection, or the words in which it is refused. Panics where a promise is broken.
pub fn checked(
    pod: &Value,
    facts: &dyn Fn(&str) -> Option<BindingFacts>,
    now: Timestamp,
) -> Result<Value, String> {
    let decided = inject(&Pod::of(pod), facts, now);
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "1", "object": pod},
    });
    let review = review.to_string();
    let asked = Request::parse(review.as_bytes()).unwrap();
    assert_eq!(inject(&asked.object, facts, now), decided, "what is read of a review of {pod} is not enough");
    let injection = match decided {
        Ok(injection) => injection,
        Err(refusal) => {
            let words = refusal.to_string();
            assert!(words.starts_with("annotation idtoken.dev/"), "{words}");
            assert!(words.chars().count() < 2500, "{words}");
            return Err(words);
        }
    };
    warnings_are_short(&injection.warnings);
    let patch = serde_json::to_value(&injection.patch).unwrap();
    let patched = patched(pod, &patch);
    let again =
        inject(&Pod::of(&patched), facts, now).unwrap_or_else(|refusal| panic!("{refusal}: {patched}"));
    assert_eq!(
        again,
        Injection { patch: vec![], warnings: injection.warnings },
        "a second application of {pod}"
    );
    Ok(patched)
}

/// `pod` with the operations of `patch`, which only add, only where we may, and over nothing of the author's.
pub fn patched(pod: &Value, patch: &Value) -> Value {
    for operation in patch.as_array().unwrap() {
        assert_eq!(operation["op"], "add", "{operation}");
        let path = operation["path"].as_str().unwrap();
        assert!(is_ours(path), "{path}");
    }
    let mut patched = pod.clone();
    let operations: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    json_patch::patch(&mut patched, &operations).unwrap_or_else(|error| panic!("{error}: {patch} to {pod}"));
    assert_eq!(&undone(&patched, pod, patch), pod, "more was changed than added");
    authors_settings_win(pod, &patched);
    patched
}

fn warnings_are_short(warnings: &[String]) {
    assert!(warnings.len() <= 10, "{warnings:?}");
    for warning in warnings {
        assert!((1..=120).contains(&warning.chars().count()), "{warning}");
        assert!(!warning.contains(char::is_control), "{warning:?}");
    }
}

fn is_ours(path: &str) -> bool {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    let number = |text: &str| text.parse::<usize>().is_ok();
    match segments.strip_suffix(&["-"]).unwrap_or(&segments) {
        ["metadata", "annotations", "idtoken.dev~1status"] | ["spec", "volumes"] => true,
        ["spec", "volumes", index, "projected", "sources"]
        | ["spec", "containers" | "initContainers", index, "volumeMounts" | "env"] => number(index),
        _ => false,
    }
}

/// `patched` without what `patch` added: whatever else there is must be as it was, known or not.
fn undone(patched: &Value, original: &Value, patch: &Value) -> Value {
    let mut rest = patched.clone();
    for operation in patch.as_array().unwrap().iter().rev() {
        let path = operation["path"].as_str().unwrap();
        if let Some(array) = path.strip_suffix("/-") {
            assert_eq!(
                rest.pointer_mut(array).unwrap().as_array_mut().unwrap().pop().unwrap(),
                operation["value"]
            );
            continue;
        }
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = rest.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let key = key.replace("~1", "/");
        match original.pointer(path) {
            None => assert_eq!(parent.remove(&key).unwrap(), operation["value"]),
            Some(before) => {
                assert!(before.is_null() || key == "idtoken.dev/status", "{before} at {path} is replaced");
                parent.insert(key, before.clone());
            }
        }
    }
    rest
}

/// What was added stands beside nothing of the same name or at the same place.
fn authors_settings_win(original: &Value, patched: &Value) {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let name = |value: &Value| text(value, "name");
    added_is_new(&original["spec"]["volumes"], &patched["spec"]["volumes"], &name);
    for list in ["containers", "initContainers"] {
        let pairs = array(&original["spec"][list]).iter().zip(array(&patched["spec"][list]));
        for (before, after) in pairs {
            added_is_new(&before["env"], &after["env"], &name);
            let place = |mount: &Value| text(mount, "mountPath").trim_end_matches('/').to_owned();
            added_is_new(&before["volumeMounts"], &after["volumeMounts"], &place);
        }
    }
}

fn added_is_new(before: &Value, after: &Value, key: &dyn Fn(&Value) -> String) {
    let (before, after) = (array(before), array(after));
    for (index, added) in after.iter().enumerate().skip(before.len()) {
        let key_of_added = key(added);
        assert!(
            after[..index].iter().all(|other| key(other) != key_of_added),
            "{added} is there already: {before:?}"
        );
    }
}

/// Whether the pod asks for something, and is no mirror pod.
pub fn is_handled(pod: &Value) -> bool {
    let annotations = &pod["metadata"]["annotations"];
    annotations["idtoken.dev/inject"].is_string() && annotations["kubernetes.io/config.mirror"].is_null()
}

/// The volume holds every binding; each chosen container has it mounted, but for those whose author mounted something else there, and
/// names its files; and the pod says so.
pub fn is_whole(pod: &Value, injector: &str) {
    let annotation =
        |key: &str| pod["metadata"]["annotations"][format!("idtoken.dev/{key}")].as_str().unwrap_or_default();
    let names: Vec<_> = annotation("inject").split(',').map(str::trim).collect();
    let volumes: Vec<_> =
        array(&pod["spec"]["volumes"]).iter().filter(|volume| volume["name"] == "idtoken").collect();
    assert_eq!(volumes.len(), 1, "{pod}");
    let sources = volumes[0]["projected"]["sources"].to_string();
    for name in &names {
        assert_eq!(sources.matches(&format!("\"{name}/token\"")).count(), 1, "{sources}");
    }
    let chosen: Vec<_> =
        annotation("containers").split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let containers = ["containers", "initContainers"].into_iter().flat_map(|list| array(&pod["spec"][list]));
    for container in containers.filter(|c| chosen.is_empty() || chosen.contains(&c["name"].as_str().unwrap()))
    {
        let mounts = array(&container["volumeMounts"]);
        let path = annotation("mount-path").trim_end_matches('/');
        let path = if path.is_empty() { "/var/run/secrets/idtoken.dev" } else { path };
        let is_ours = |mount: &&Value| mount["name"] == "idtoken" && mount["subPath"].is_null();
        let Some(ours) = mounts.iter().find(is_ours) else {
            let at_path = |mount: &Value| mount["mountPath"].as_str().unwrap().trim_end_matches('/') == path;
            assert!(mounts.iter().any(at_path), "{container}");
            continue;
        };
        let directory = ours["mountPath"].as_str().unwrap().trim_end_matches('/').replace('$', "$$");
        for name in &names {
            let variable = format!("IDTOKEN_FILE_{}", name.to_uppercase().replace(['-', '.'], "_"));
            let found: Vec<_> =
                array(&container["env"]).iter().filter(|v| v["name"] == variable.as_str()).collect();
            let expected = json!({"name": variable, "value": format!("{directory}/{name}/token")});
            assert!(
                found == [&expected] || found == [&json!({"name": "IDTOKEN_FILE_ORDERS"})],
                "{container}"
            );
        }
    }
    let status: Value = serde_json::from_str(annotation("status")).unwrap();
    assert_eq!(status["injector"], injector);
}

pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
