//! What Helm renders.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::Value;

use super::{CHART, NAMESPACE, directory};
use crate::tools::KUBERNETES_VERSION;

/// What the chart renders, as text: `helm template` with further arguments, such as `--set webhook.replicas=3`.
pub fn template<A: AsRef<OsStr>>(
    helm: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> anyhow::Result<String> {
    let output = Command::new(helm)
        .args(["template", CHART])
        .arg(directory())
        .args(["--namespace", NAMESPACE, "--kube-version", KUBERNETES_VERSION])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run helm")?;
    ensure!(
        output.status.success(),
        "helm can't render the chart: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).context("helm prints no text")
}

/// The objects in what was rendered.
pub fn objects(rendered: &str) -> anyhow::Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(rendered).map(Value::deserialize);
    let objects = documents.filter(|object| !matches!(object, Ok(Value::Null)));
    objects.map(|object| object.context("the chart renders what is no YAML")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn documents_with_nothing_but_comments_are_no_objects() {
        assert_eq!(
            objects("---\n# a comment\n---\nkind: A\n---\n---\nkind: B\n").unwrap(),
            [json!({"kind": "A"}), json!({"kind": "B"})]
        );
        assert!(objects("---\nkind: A\n---\n}").is_err());
    }
}
