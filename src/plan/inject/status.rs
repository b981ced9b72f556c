//! The annotation `idtoken.dev/status`: that the pod was handled, by whom, and what it was given.
use serde_json::{Value, json};

use super::{
    document::{PatchOp, text},
    request::{PREFIX, Request, STATUS},
};
use crate::plan::secret::sha256_hex;

/// The operation that writes the annotation; none where it stands there already. `secrets` is what the volume holds once it is patched, so
/// that a second application, by when a binding may have changed, says the same of the same pod.
pub(super) fn addition(pod: &Value, request: &Request, secrets: &Value) -> Option<PatchOp> {
    let config = sha256_hex(json!([request, secrets]).to_string().as_bytes());
    let version = env!("CARGO_PKG_VERSION");
    let status = format!(r#"{{"injector":"webhook","version":"{version}","config":"{}"}}"#, &config[..16]);
    let current = text(&pod["metadata"]["annotations"], &format!("{PREFIX}{STATUS}"));
    (current != status).then(|| PatchOp {
        path: "/metadata/annotations/idtoken.dev~1status".to_owned(), // ~1 is a slash in a JSON pointer
        value: json!(status),
    })
}
