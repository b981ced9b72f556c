//! `tests/fixtures/refused.yaml`: pods that are refused, and in which words.

#![allow(missing_docs, clippy::unwrap_used, unreachable_pub)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    spec: BTreeMap<String, Value>,
    message: String,
}

/// Each with its message.
pub fn all() -> Vec<(Value, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/refused.yaml");
    let refused: Vec<Refused> = serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    refused.into_iter().map(|refused| (pod(&refused), refused.message)).collect()
}

fn pod(refused: &Refused) -> Value {
    let annotations: BTreeMap<_, _> =
        refused.annotations.iter().map(|(key, value)| (format!("idtoken.dev/{key}"), value)).collect();
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "refused", "annotations": annotations},
        "spec": {"initContainers": [{"name": "setup", "image": "setup"}], "containers": [{"name": "app", "image": "app"}]},
    });
    for (key, value) in &refused.spec {
        pod["spec"][key] = value.clone();
    }
    pod
}
