//! What an annotated pod gets: one volume with its tokens, one mount and a few variables for each container.
//!
//! Works on the pod's raw JSON and only ever adds to it, so that fields which this program has never heard of survive: they
//! are not even read (see [`Pod`]).
//! A second application finds what the first one added and adds nothing.
mod containers;
mod document;
mod lenient;
mod pod;
mod request;
mod status;
#[cfg(test)]
mod tests;
mod volume;

use jiff::Timestamp;

pub use document::{Addition, Element, KeyToPath, PatchOp, Projected, Secret, Source};
pub use pod::Pod;
pub use request::{Refusal, Request, request};

/// What the webhook needs to know about an `IdTokenBinding`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingFacts {
    /// The Secret that holds the binding's token.
    pub secret_name: String,
    /// The key of the raw token in that Secret.
    pub key: String,
    /// The key of `Bearer <token>` in that Secret, where the binding asks for one.
    pub authorization_key: Option<String>,
    /// When the token in the Secret expires; none before the first token.
    pub expiration_time: Option<Timestamp>,
}

impl BindingFacts {
    /// What a binding that is not known is taken to look like: a Secret of the default name with the default key.
    #[must_use]
    pub fn assumed(binding: &str) -> Self {
        Self {
            secret_name: format!("{binding}-idtoken"),
            key: "id_token".to_owned(),
            authorization_key: None,
            expiration_time: None,
        }
    }
}

/// The answer for one pod.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Injection {
    /// Add operations, to be applied in this order; empty when nothing is to be done.
    pub patch: Vec<PatchOp>,
    /// Messages for whoever created the pod: at most ten, each of at most 120 characters.
    pub warnings: Vec<String>,
}

/// Decides what `pod` gets. `bindings` answers for the names in its [`Request`] and returns `None` for a name that it
/// does not know.
pub fn inject(
    pod: &Pod<'_>,
    bindings: &dyn Fn(&str) -> Option<BindingFacts>,
    now: Timestamp,
) -> Result<Injection, Refusal> {
    fulfil(pod, request(pod)?.as_ref(), bindings, now)
}

/// The same, where the pod's request was read before.
pub fn fulfil(
    pod: &Pod<'_>,
    request: Option<&Request>,
    bindings: &dyn Fn(&str) -> Option<BindingFacts>,
    now: Timestamp,
) -> Result<Injection, Refusal> {
    let mut warnings = request::unknown_keys(pod);
    let Some(request) = request else {
        return Ok(Injection { patch: Vec::new(), warnings: bounded(warnings) });
    };
    request::whole(pod)?;
    let Some(spec) = pod.spec() else {
        return Ok(Injection::default()); // The API server has its own words for a pod without a spec.
    };
    let sources: Vec<_> = request
        .bindings
        .iter()
        .map(|name| {
            let facts = bindings(name);
            warnings.extend(concern(name, facts.as_ref(), now));
            (name.as_str(), facts.unwrap_or_else(|| BindingFacts::assumed(name)))
        })
        .collect();

    if spec.host_network.0 {
        warnings.push(HOST_NETWORK.to_owned());
    }

    let mut patch = volume::additions(spec, request, &sources)?;
    let mut room = containers::Room::default();
    for target in containers::chosen(spec, request)? {
        containers::add(&target, request, &mut room, &mut patch, &mut warnings)?;
    }
    patch.extend(status::addition(pod, request, &volume::contents(spec, &sources)));
    Ok(Injection { patch, warnings: bounded(warnings) })
}

/// Cuts each of `warnings`, and says how many are left out where there are too many.
fn bounded(mut warnings: Vec<String>) -> Vec<String> {
    let count = warnings.len();
    if count > WARNINGS {
        warnings.truncate(WARNINGS - 1);
        warnings.push(format!("and {} more warnings", count - WARNINGS + 1));
    }
    warnings.into_iter().map(|text| shorten(&text, WARNING)).collect()
}

fn concern(name: &str, facts: Option<&BindingFacts>, now: Timestamp) -> Option<String> {
    let shown = shorten(name, NAME);
    match facts {
        None => Some(format!(
            "IdTokenBinding {shown:?} is not known (yet): its Secret is mounted by the default name"
        )),
        Some(BindingFacts { expiration_time: Some(at), .. }) if *at <= now => {
            Some(format!("the token of IdTokenBinding {shown:?} expired at {at:.0}; see its status"))
        }
        Some(_) => None,
    }
}

/// Cuts `text` to at most `limit` characters, with a mark where something is missing.
fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit - 1).chain(['…']).collect()
}

/// The volume's name in the pod.
const VOLUME: &str = "idtoken";
/// The API server passes warnings on in full up to this many characters.
const WARNING: usize = 120;
/// The API server passes on 4096 characters of all of them together.
const WARNINGS: usize = 10;
/// The metadata server answers by the address that asks, and that is the node's.
const HOST_NETWORK: &str = "hostNetwork: the token files work, but on GKE Google client libraries see the node's identity, not the pod's";
/// What of a name is shown in a warning, so that the sentence around it still fits.
const NAME: usize = 40;
