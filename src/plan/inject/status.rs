//! The annotation `idtoken.dev/status`: that the pod was handled, by whom, and what it was given.
use super::{
    document::{Addition, PatchOp},
    pod::Pod,
    request::{Request, STATUS, ours},
    volume::Content,
};
use crate::plan::secret::sha256_hex;

/// The operation that writes the annotation; none where it stands there already. `contents` is what the volume holds once it is patched, so
/// that a second application, by when a binding may have changed, says the same of the same pod.
pub(super) fn addition(pod: &Pod<'_>, request: &Request, contents: &[Content<'_>]) -> Option<PatchOp> {
    // Strings, numbers and lists of them: that can't fail.
    let config = sha256_hex(&serde_json::to_vec(&(request, contents)).unwrap_or_default());
    let version = env!("CARGO_PKG_VERSION");
    let status = format!(r#"{{"injector":"webhook","version":"{version}","config":"{}"}}"#, &config[..16]);
    (ours(pod, STATUS) != Some(&status)).then(|| PatchOp {
        path: "/metadata/annotations/idtoken.dev~1status".to_owned(), // ~1 is a slash in a JSON pointer
        value: Addition::Text(status),
    })
}
