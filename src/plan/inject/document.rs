//! What is added to a pod.
use serde::Serialize;

use super::lenient::List;

/// One JSON patch operation. There is no other kind than `add`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename = "add")]
pub struct PatchOp {
    /// The JSON pointer (RFC 6901) of what is added.
    pub path: String,
    /// What is added.
    pub value: Addition,
}

/// What an operation adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Addition {
    /// An element of an array.
    Element(Element),
    /// A whole array.
    Array(Vec<Element>),
    /// A string.
    Text(String),
}

/// An element of one of the pod's arrays.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)] // the fields are those of Kubernetes
pub enum Element {
    Volume {
        name: &'static str,
        projected: Projected,
    },
    Source(Source),
    #[serde(rename_all = "camelCase")]
    Mount {
        name: &'static str,
        mount_path: String,
        read_only: bool,
    },
    Variable {
        name: String,
        value: String,
    },
}

/// A volume of several sources.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Projected {
    pub default_mode: u32,
    pub sources: Vec<Source>,
}

/// A source of such a volume.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Source {
    pub secret: Secret,
}

/// A Secret, and where its keys are written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Secret {
    pub name: String,
    pub items: Vec<KeyToPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Where a key is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
}

/// Adds `items` at the end of the array at `pointer`, where now is what `present` says. Something else than an array is left to the
/// API server's own words: `add` would replace it.
pub(super) fn append<T>(patch: &mut Vec<PatchOp>, pointer: String, present: &List<T>, items: Vec<Element>) {
    if items.is_empty() {
        return;
    }
    match present {
        List::Elements(_) => {
            let end = format!("{pointer}/-");
            let one = |item| PatchOp { path: end.clone(), value: Addition::Element(item) };
            patch.extend(items.into_iter().map(one));
        }
        List::Absent => patch.push(PatchOp { path: pointer, value: Addition::Array(items) }),
        List::Other => {}
    }
}
