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
    if !spec.is_object() {
        return Ok(Vec::new()); // The API server has its own words for a pod without a spec.
    }
    let mut patch = Vec::new();
    let project = |(name, facts): &(&str, BindingFacts)| projection(name, facts, request.optional);
    let volumes = elements(spec, "volumes");
    if let Some(index) = volumes.iter().position(|volume| text(volume, "name") == VOLUME) {
        let projected = &volumes[index]["projected"];
        if !projected.is_object() {
            return Err(foreign(&request.bindings));
        }
        let missing = bindings.iter().filter(|(name, _)| !projects(projected, &token_path(name)));
        let pointer = format!("/spec/volumes/{index}/projected/sources");
        append(&mut patch, pointer, projected.get("sources"), missing.map(project).collect());
    } else {
        let sources: Vec<_> = bindings.iter().map(project).collect();
        let projected = json!({"defaultMode": request.file_mode, "sources": sources});
        let volume = json!({"name": VOLUME, "projected": projected});
        append(&mut patch, "/spec/volumes".to_owned(), spec.get("volumes"), vec![volume]);
    }
    Ok(patch)
}

/// Where the token of `binding` is in the volume.
pub(super) fn token_path(binding: &str) -> String {
    format!("{binding}/token")
}

fn projection(binding: &str, facts: &BindingFacts, optional: bool) -> Value {
    let mut items = vec![json!({"key": facts.key, "path": token_path(binding)})];
    items.extend(
        facts
            .authorization_key
            .iter()
            .map(|key| json!({"key": key, "path": format!("{binding}/authorization")})),
    );
    let mut secret = json!({"name": facts.secret_name, "items": items});
    if optional {
        secret["optional"] = json!(true);
    }
    json!({"secret": secret})
}

/// Found by path and not by content: where a binding has changed since the first application, a second source for
/// the same path would make kubelet's result depend on the order.
fn projects(projected: &Value, path: &str) -> bool {
    elements(projected, "sources")
        .iter()
        .flat_map(|source| elements(&source["secret"], "items"))
        .any(|item| text(item, "path") == path)
}

fn foreign(bindings: &[String]) -> Refusal {
    Refusal::new(
        "inject",
        &bindings.join(","),
        format!("needs a volume named {VOLUME:?}, but the pod has a volume of another type with that name"),
        "rename that volume in the pod",
    )
}
