//! Kubeconfig files.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::certificates::Credential;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// `https://127.0.0.1:PORT`
    pub(crate) server: String,
    /// The certificate authority in PEM.
    pub(crate) authority: String,
}

/// What a user shows.
pub(crate) enum Identity {
    Certificate(Credential),
    Token(String),
}

/// Writes a kubeconfig that only its owner can read.
pub(crate) fn write(path: &Path, access: &Access, user: &str, identity: &Identity) -> anyhow::Result<()> {
    let text = serde_yaml_ng::to_string(&document(access, user, identity))?;
    write_private(path, &text)
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn document(access: &Access, user: &str, identity: &Identity) -> Value {
    let credentials = match identity {
        Identity::Certificate(credential) => json!({
            "client-certificate-data": STANDARD.encode(&credential.certificate),
            "client-key-data": STANDARD.encode(&credential.key),
        }),
        Identity::Token(token) => json!({"token": token}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CLUSTER, "cluster": {
            "server": access.server,
            "certificate-authority-data": STANDARD.encode(&access.authority),
        }}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": CLUSTER,
    })
}

const CLUSTER: &str = "idtoken-operator";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_kubeconfig_is_private_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let access = Access { server: "https://127.0.0.1:1".to_owned(), authority: "ca".to_owned() };
        write(&path, &access, "someone", &Identity::Token("secret".to_owned())).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let config = kube::config::Kubeconfig::read_from(&path).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("idtoken-operator"));
        assert_eq!(config.auth_infos[0].name, "someone");
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:1"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Y2E="));
    }
}
