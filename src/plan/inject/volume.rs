//! The volume: each binding's Secret, projected into a directory of the binding's name.
use serde_json::{Value, json};

use super::{
    BindingFacts, VOLUME,
    document::{PatchOp, append, elements, text},
    request::{Refusal, Request},
};

/// The operations that make the pod's volume hold every binding.
pub(super) fn additions(
    pod: &Value,
    request: &Request,
    bindings: &[(&str, BindingFacts)],
) -> Result<Vec<PatchOp>, Refusal> {
    let spec = &pod["spec"];
    let mut patch = Vec::new();
    let volumes = elements(spec, "volumes");
    if let Some(index) = position(volumes) {
        let projected = &volumes[index]["projected"];
        if !projected.is_object() {
            return Err(foreign(&request.bindings));
        }
        let missing = bindings.iter().filter(|(name, _)| !is_taken(projected, &token_path(name)));
        let pointer = format!("/spec/volumes/{index}/projected/sources");
        let sources = missing.map(|binding| projection(binding, request.optional, projected)).collect();
        append(&mut patch, pointer, projected.get("sources"), sources);
    } else {
        let project = |binding| projection(binding, request.optional, &Value::Null);
        let sources: Vec<_> = bindings.iter().map(project).collect();
        let projected = json!({"defaultMode": request.file_mode, "sources": sources});
        let volume = json!({"name": VOLUME, "projected": projected});
        append(&mut patch, "/spec/volumes".to_owned(), spec.get("volumes"), vec![volume]);
    }
    Ok(patch)
}

/// The Secret of each binding, with the keys of the token and of the authorization header, as the pod has them once [`additions`] are made.
pub(super) fn contents(pod: &Value, bindings: &[(&str, BindingFacts)]) -> Value {
    let volumes = elements(&pod["spec"], "volumes");
    let projected = position(volumes).map_or(&Value::Null, |index| &volumes[index]["projected"]);
    let content = |(name, facts): &(&str, BindingFacts)| {
        let (token, authorization) = (token_path(name), authorization_path(name));
        match projected_secret(projected, name) {
            Some(secret) => json!([secret["name"], key_at(secret, &token), key_at(secret, &authorization)]),
            None if is_taken(projected, &token) => Value::Null,
            None => json!([
                facts.secret_name,
                facts.key,
                free_authorization_key(facts, projected, &authorization)
            ]),
        }
    };
    bindings.iter().map(content).collect()
}

/// Where the token of `binding` is in the volume.
pub(super) fn token_path(binding: &str) -> String {
    format!("{binding}/token")
}

fn authorization_path(binding: &str) -> String {
    format!("{binding}/authorization")
}

/// The source for one binding, in a volume that is `projected` so far.
fn projection((binding, facts): &(&str, BindingFacts), optional: bool, projected: &Value) -> Value {
    let mut items = vec![json!({"key": facts.key, "path": token_path(binding)})];
    let path = authorization_path(binding);
    if let Some(key) = free_authorization_key(facts, projected, &path) {
        items.push(json!({"key": key, "path": path}));
    }
    let mut secret = json!({"name": facts.secret_name, "items": items});
    if optional {
        secret["optional"] = json!(true);
    }
    json!({"secret": secret})
}

/// The key for `path`, where a header is wanted and nothing else is written there.
fn free_authorization_key<'a>(facts: &'a BindingFacts, projected: &Value, path: &str) -> Option<&'a String> {
    facts.authorization_key.as_ref().filter(|_| !is_taken(projected, path))
}

/// Whether a source of any type writes to `path`: the API server refuses a second one.
fn is_taken(projected: &Value, path: &str) -> bool {
    let sources = elements(projected, "sources").iter().filter_map(Value::as_object);
    let is = |value: &Value| text(value, "path") == path;
    sources.flat_map(|source| source.values()).any(|kind| is(kind) || elements(kind, "items").iter().any(is))
}

/// The `secret` source that gives `binding` its token. Found by path and not by content: where a binding has changed since the first
/// application, a second source for the same path would make kubelet's result depend on the order.
fn projected_secret<'a>(projected: &'a Value, binding: &str) -> Option<&'a Value> {
    let path = token_path(binding);
    let secrets = elements(projected, "sources").iter().map(|source| &source["secret"]);
    secrets.into_iter().find(|secret| key_at(secret, &path).is_some())
}

/// The key that a `secret` source writes to `path`.
fn key_at<'a>(secret: &'a Value, path: &str) -> Option<&'a Value> {
    elements(secret, "items").iter().find(|item| text(item, "path") == path).map(|item| &item["key"])
}

fn position(volumes: &[Value]) -> Option<usize> {
    volumes.iter().position(|volume| text(volume, "name") == VOLUME)
}

fn foreign(bindings: &[String]) -> Refusal {
    Refusal::new(
        "inject",
        &bindings.join(","),
        format!("needs a volume named {VOLUME:?}, but the pod has a volume of another type with that name"),
        "rename that volume in the pod",
    )
}
