//! Reading and extending a raw JSON document.
use serde::Serialize;
use serde_json::{Value, json};

/// One JSON patch operation. There is no other kind than `add`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename = "add")]
pub struct PatchOp {
    /// The JSON pointer (RFC 6901) of what is added.
    pub path: String,
    /// What is added.
    pub value: Value,
}

/// Adds `items` at the end of the array at `pointer`, of which `present` is the present value. Something else than an array is left to
/// the API server's own words: `add` would replace it.
pub(super) fn append(patch: &mut Vec<PatchOp>, pointer: String, present: Option<&Value>, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    match present {
        Some(Value::Array(_)) => {
            let end = format!("{pointer}/-");
            patch.extend(items.into_iter().map(|value| PatchOp { path: end.clone(), value }));
        }
        None | Some(Value::Null) => patch.push(PatchOp { path: pointer, value: json!(items) }),
        Some(_) => {}
    }
}

/// The elements of `value[key]`; none where it is absent, null or no array.
pub(super) fn elements<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The string `value[key]`, empty where it is absent.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
