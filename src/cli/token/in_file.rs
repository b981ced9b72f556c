//! A file as the keeper of a binding's own credentials.

use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroizing;

use super::io;
use crate::{
    api::{Reason, annotations as keys},
    plan::{
        Problem,
        credential::{Account, check_label, secrets_version},
        manifest::{Manifest, SecretEntry},
        source::SecretKey,
    },
    token::credentials::{Credentials, SecretValues, SubjectToken},
};

/// The credentials that stand beside a binding in its file. The rules are those of the cluster.
pub(super) struct InFile<'a> {
    /// How messages call the file.
    name: &'a str,
    manifest: &'a Manifest,
    subject_token: Option<PathBuf>,
}

impl<'a> InFile<'a> {
    /// `subject_token`: the file with the token of a ServiceAccount.
    pub(super) fn new(name: &'a str, manifest: &'a Manifest, subject_token: Option<PathBuf>) -> Self {
        Self { name, manifest, subject_token }
    }

    fn secret(&self, name: &str) -> Result<&SecretEntry, Problem> {
        let file = self.name;
        let entry = self.manifest.secrets.get(name).ok_or_else(|| {
            missing(format!(
                "{file} holds no Secret {name}; add it, with the label {}: \"true\"",
                keys::CREDENTIAL
            ))
        })?;
        check_label(name, &entry.metadata).map_err(|problem| Problem {
            message: format!(
                "{file}: document {} (Secret {name}), metadata.labels: has no {}: \"true\"; add it, as the cluster demands it too",
                entry.document,
                keys::CREDENTIAL
            ),
            ..problem
        })?;
        Ok(entry)
    }
}

impl Credentials for InFile<'_> {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        let mut values = Vec::new();
        let mut metadata: Vec<&ObjectMeta> = Vec::new();
        for SecretKey { name, key } in keys {
            let entry = self.secret(name)?;
            let value = entry.data.get(key).ok_or_else(|| {
                let (file, document) = (self.name, entry.document);
                missing(format!("{file}: document {document} (Secret {name}) has no key {key}; add it to data or stringData"))
            })?;
            values.push(Zeroizing::new(value.clone()));
            metadata.push(&entry.metadata);
        }
        Ok(SecretValues { values, version: secrets_version(metadata) })
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        let namespace = self.manifest.namespace();
        if let Some(metadata) = self.manifest.accounts.get(name) {
            return Ok(Account::of(metadata));
        }
        let source = &self.manifest.binding.spec.source.kubernetes_service_account;
        let named = source.as_ref().and_then(|source| source.google_service_account.as_deref());
        if named.is_none_or(str::is_empty) {
            let file = self.name;
            return Err(missing(format!(
                "{file} holds no ServiceAccount {name}, whose annotation {} is to name the Google service account; add it, or set \
                 spec.source.kubernetesServiceAccount.googleServiceAccount",
                keys::GKE_SERVICE_ACCOUNT
            )));
        }
        Ok(Account::of(&ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        }))
    }

    async fn subject_token(&self, account: &Account, audience: &str) -> Result<SubjectToken, Problem> {
        let Account { namespace, name, .. } = account;
        let Some(path) = &self.subject_token else {
            return Err(missing(format!(
                "a token of ServiceAccount {namespace}/{name} is needed, and here is no cluster to ask for one; get it with kubectl -n \
                 {namespace} create token {name} --audience {audience}, and name the file that holds it by --subject-token-file"
            )));
        };
        if io::is_content(path) {
            return Err(missing(
                "--subject-token-file is no file; write the token into one, and name that".to_owned(),
            ));
        }
        let problem = |why: &str| missing(format!("--subject-token-file {}: {why}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| problem(&format!("can't be read: {error}")))?;
        let text = Zeroizing::new(text);
        match text.trim() {
            "" => Err(problem("is empty")),
            token => Ok(SubjectToken::new(token.to_owned())),
        }
    }
}

fn missing(message: String) -> Problem {
    Problem::on_change(Reason::CredentialsNotFound, message)
}
