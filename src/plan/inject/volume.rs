//! The volume: each binding's Secret, projected into a directory of the binding's name.
use serde::Serialize;

use super::{
    BindingFacts, VOLUME,
    document::{self, Element, KeyToPath, PatchOp, Secret, append},
    lenient::{Object, Text},
    pod::{Projected, Source, Spec, Volume},
    request::{Refusal, Request},
};

/// The operations that make the pod's volume hold every binding.
pub(super) fn additions(
    spec: &Spec<'_>,
    request: &Request,
    bindings: &[(&str, BindingFacts)],
) -> Result<Vec<PatchOp>, Refusal> {
    let mut patch = Vec::new();
    let source = |binding, present| projection(binding, request.optional, present);
    if let Some((index, volume)) = ours(spec) {
        let Object(Some(projected)) = &volume.projected else {
            return Err(foreign(&request.bindings));
        };
        let missing = bindings.iter().filter(|(name, _)| !is_taken(projected, &token_path(name)));
        let pointer = format!("/spec/volumes/{index}/projected/sources");
        let sources = missing.map(|binding| Element::Source(source(binding, Some(projected)))).collect();
        append(&mut patch, pointer, &projected.sources, sources);
    } else {
        let sources = bindings.iter().map(|binding| source(binding, None)).collect();
        let projected = document::Projected { default_mode: request.file_mode, sources };
        let volume = Element::Volume { name: VOLUME, projected };
        append(&mut patch, "/spec/volumes".to_owned(), &spec.volumes, vec![volume]);
    }
    Ok(patch)
}

/// The Secret of a binding, with the keys of the token and of the authorization header; none where something else gives the token.
pub(super) type Content<'a> = Option<Keys<'a>>;

#[derive(Debug, Serialize)]
pub(super) struct Keys<'a>(Option<&'a str>, Option<&'a str>, Option<&'a str>);

/// What the pod's volume holds of each binding once [`additions`] are made.
pub(super) fn contents<'a>(spec: &'a Spec<'_>, bindings: &'a [(&str, BindingFacts)]) -> Vec<Content<'a>> {
    let projected = ours(spec).and_then(|(_, volume)| volume.projected.0.as_ref());
    let content = |(name, facts): &'a (&str, BindingFacts)| {
        let (token, authorization) = (token_path(name), authorization_path(name));
        if let Some(secret) = projected.and_then(|projected| projected_secret(projected, &token)) {
            return Some(Keys(
                secret.name.get(),
                key_at(secret, &token)?.get(),
                key_at(secret, &authorization).and_then(Text::get),
            ));
        }
        if projected.is_some_and(|projected| is_taken(projected, &token)) {
            return None;
        }
        let header = free_authorization_key(facts, projected, &authorization);
        Some(Keys(Some(&facts.secret_name), Some(&facts.key), header))
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
fn projection(
    (binding, facts): &(&str, BindingFacts),
    optional: bool,
    projected: Option<&Projected<'_>>,
) -> document::Source {
    let mut items = vec![KeyToPath { key: facts.key.clone(), path: token_path(binding) }];
    let path = authorization_path(binding);
    if let Some(key) = free_authorization_key(facts, projected, &path) {
        items.push(KeyToPath { key: key.to_owned(), path });
    }
    let optional = optional.then_some(true);
    document::Source { secret: Secret { name: facts.secret_name.clone(), items, optional } }
}

/// The key for `path`, where a header is wanted and nothing else is written there.
fn free_authorization_key<'a>(
    facts: &'a BindingFacts,
    projected: Option<&Projected<'_>>,
    path: &str,
) -> Option<&'a str> {
    let is_free = projected.is_none_or(|projected| !is_taken(projected, path));
    facts.authorization_key.as_deref().filter(|_| is_free)
}

/// Whether a source of any type writes to `path`: the API server refuses a second one.
fn is_taken(projected: &Projected<'_>, path: &str) -> bool {
    let types = projected.sources.elements().iter().flat_map(|source| &source.0);
    let sources = types.filter_map(|(_, source)| source.0.as_ref());
    sources.into_iter().any(|source| {
        source.path.as_str() == path || source.items.objects().any(|(_, item)| item.path.as_str() == path)
    })
}

/// The `secret` source that writes `token`. Found by path and not by content: where a binding has changed since the first
/// application, a second source for the same path would make kubelet's result depend on the order.
fn projected_secret<'a, 'p>(projected: &'a Projected<'p>, token: &str) -> Option<&'a Source<'p>> {
    let types = projected.sources.elements().iter().flat_map(|source| &source.0);
    let mut secrets =
        types.filter(|(name, _)| name.as_str() == "secret").filter_map(|(_, source)| source.0.as_ref());
    secrets.find(|secret| key_at(secret, token).is_some())
}

/// The key that a `secret` source writes to `path`, if it writes there; it may be none.
fn key_at<'a, 'p>(secret: &'a Source<'p>, path: &str) -> Option<&'a Text<'p>> {
    secret.items.objects().find(|(_, item)| item.path.as_str() == path).map(|(_, item)| &item.key)
}

/// The volume of our name, and its place.
fn ours<'a, 'p>(spec: &'a Spec<'p>) -> Option<(usize, &'a Volume<'p>)> {
    spec.volumes.objects().find(|(_, volume)| volume.name.as_str() == VOLUME)
}

fn foreign(bindings: &[String]) -> Refusal {
    Refusal::new(
        "inject",
        &bindings.join(","),
        format!("needs a volume named {VOLUME:?}, but the pod has a volume of another type with that name"),
        "rename that volume in the pod",
    )
}
