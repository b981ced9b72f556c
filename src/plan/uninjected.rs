//! Pods that ask for tokens and have none, mostly because they were created while nothing injected.
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde_json::Value;

use super::inject::{self, Request};
use crate::api::annotations::PREFIX;

/// Namespaces that injection leaves alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded(Vec<String>);

impl Excluded {
    /// These; a name that ends with `*` stands for all that begin so.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().filter(|name| !name.is_empty()).collect())
    }

    /// Whether `namespace` is one of them.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => namespace.starts_with(start),
            None => namespace == name,
        })
    }
}

/// What a pod's metadata tell of its injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It asks for nothing, or nothing can be done about it.
    None,
    /// It asks, and bears the mark of what injects. Anybody can write that: it is a hint, and only the spec can tell.
    Marked,
    /// It asks, and nothing says that it was answered.
    Unanswered,
}

/// What a pod's spec tells of its injection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing: it asks for nothing, or has ended.
    Nothing,
    /// It has all that it asks for.
    Complete,
    /// It has not: what it lacks, and the mend.
    Lacking(String),
}

/// Reads a pod's metadata.
#[must_use]
pub fn trace(metadata: &ObjectMeta, excluded: &Excluded) -> Trace {
    let annotations = metadata.annotations.as_ref();
    let annotation = |key: &str| annotations?.get(key).map(|value| value.trim()).filter(|v| !v.is_empty());
    let asks = ASKS.iter().any(|key| annotation(key).is_some());
    let is_mirror = annotations.is_some_and(|found| found.contains_key(MIRROR));
    let left_alone = excluded.contains(metadata.namespace.as_deref().unwrap_or_default());
    if !asks || is_mirror || left_alone || metadata.deletion_timestamp.is_some() {
        return Trace::None;
    }
    if annotation(&format!("{PREFIX}status")).is_some() { Trace::Marked } else { Trace::Unanswered }
}

/// Whether `pod` has the tokens that it asks for.
#[must_use]
pub fn finding(pod: &Pod) -> Finding {
    let has_ended = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| ENDED.contains(&p));
    let value = serde_json::to_value(pod).unwrap_or_default();
    if has_ended {
        return Finding::Nothing;
    }
    let mend = mend(&pod.metadata);
    match inject::request(&inject::Pod::of(&value)) {
        Ok(None) => Finding::Nothing,
        Ok(Some(request)) => missing(&value, &request).map_or(Finding::Complete, |missing| {
            let names = request.bindings.join(", ");
            Finding::Lacking(format!(
                "asks for the tokens of IdTokenBindings {names}, but has {missing}. Nothing injected when it was created, or that was \
                 taken away again, or the annotation came later than the pod (it belongs in the template). {mend}"
            ))
        }),
        Err(refusal) => Finding::Lacking(format!(
            "asks for tokens in a way that is refused, but nothing looked at it when it was created, or the annotation came later: \
             {refusal}. Then: {mend}"
        )),
    }
}

/// That a pod got what it asked for.
#[must_use]
pub fn confirmation(metadata: &ObjectMeta) -> String {
    let asked = metadata.annotations.as_ref().and_then(|a| a.get(&format!("{PREFIX}inject")));
    let (name, asked) =
        (metadata.name.as_deref().unwrap_or_default(), asked.map_or("", |names| names.trim()));
    format!("pod {name} has got the tokens of IdTokenBindings {asked}; said once for all pods of its owner")
}

/// What created the pod, and would create it again.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

fn missing(pod: &Value, request: &Request) -> Option<String> {
    let spec = &pod["spec"];
    let volume = elements(&spec["volumes"]).find(|volume| volume["name"] == VOLUME);
    let sources = || volume.into_iter().flat_map(|volume| elements(&volume["projected"]["sources"]));
    let lacks = |name: &&String| !sources().any(|source| writes_to(source, &format!("{name}/token")));
    if let Some(name) = request.bindings.iter().find(lacks) {
        return Some(format!("no volume {VOLUME:?} with the token of {name}"));
    }
    let chosen = |container: &&Value| {
        request.containers.as_ref().is_none_or(|names| names.iter().any(|wanted| wanted == name(container)))
    };
    let containers = elements(&spec["initContainers"]).chain(elements(&spec["containers"]));
    let (with, without): (Vec<_>, Vec<_>) =
        containers.filter(chosen).partition(|c| elements(&c["volumeMounts"]).any(is_ours));
    if with.is_empty() {
        return Some(format!("no mount of the volume {VOLUME:?}"));
    }
    // Where the author has mounted something of his own, he wants no tokens.
    let is_taken = |container: &Value| {
        let paths = elements(&container["volumeMounts"]).filter_map(|mount| mount["mountPath"].as_str());
        paths.into_iter().any(|path| path.trim_end_matches('/') == request.mount_path)
    };
    let names: Vec<_> = without.into_iter().filter(|c| !is_taken(c)).map(name).collect();
    (!names.is_empty()).then(|| format!("no mount of the volume {VOLUME:?} in {}", names.join(", ")))
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// Whether a source of a projected volume, of whatever type, writes to `path`.
fn writes_to(source: &Value, path: &str) -> bool {
    let is = |value: &Value| value["path"] == path;
    let mut types = source.as_object().into_iter().flat_map(|source| source.values());
    types.any(|source| is(source) || elements(&source["items"]).any(is))
}

/// A file mounted by subPath is never updated: it does not count.
fn is_ours(mount: &Value) -> bool {
    let is_blank = |key: &str| mount[key].as_str().unwrap_or_default().is_empty();
    mount["name"] == VOLUME && is_blank("subPath") && is_blank("subPathExpr")
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn mend(metadata: &ObjectMeta) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let restart =
        |what: &str| format!("When injection is at work: kubectl -n {namespace} rollout restart {what}");
    let Some(owner) = controller_of(metadata) else {
        return "Delete it and create it again when injection is at work".to_owned();
    };
    match owner.kind.as_str() {
        "StatefulSet" => restart(&format!("statefulset/{}", owner.name)),
        "DaemonSet" => restart(&format!("daemonset/{}", owner.name)),
        _ => match deployment(metadata, owner) {
            Some(deployment) => restart(&format!("deployment/{deployment}")),
            None => format!(
                "When injection is at work: kubectl -n {namespace} delete pod {name} (its {} {} makes another)",
                owner.kind, owner.name
            ),
        },
    }
}

/// A Deployment names its `ReplicaSets` after the hash that their pods have as a label.
fn deployment<'a>(metadata: &ObjectMeta, owner: &'a OwnerReference) -> Option<&'a str> {
    let hash = metadata.labels.as_ref()?.get("pod-template-hash")?;
    let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
    (owner.kind == "ReplicaSet").then_some(name)
}

/// What has none of these annotations asks for nothing: the chart shows it neither to the webhook nor to a policy.
const ASKS: [&str; 2] = ["idtoken.dev/inject", "idtoken.dev/guard"];
const VOLUME: &str = "idtoken";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Phases in which no container runs any more.
const ENDED: [&str; 2] = ["Succeeded", "Failed"];

#[cfg(test)]
mod tests;
