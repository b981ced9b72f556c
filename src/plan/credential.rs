//! A binding's own credentials: which may be used, and what tells one state of them from the next.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Problem,
    secret::sha256_hex,
    source::{SecretKey, ServiceAccountEmail},
};
use crate::api::{Reason, annotations as keys};

/// What is known of a Kubernetes ServiceAccount, without a token of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: an account made anew under an old name is another principal.
    pub uid: String,
    /// The annotation that names a Google service account, as written.
    pub annotated: Option<String>,
    /// Whether another annotation says that it is a federated principal by itself.
    pub is_principal: bool,
}

impl Account {
    /// Reads it off a ServiceAccount's metadata.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key));
        Self {
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
            uid: text(&metadata.uid),
            annotated: annotation(keys::GKE_SERVICE_ACCOUNT)
                .filter(|email| !email.trim().is_empty())
                .cloned(),
            is_principal: annotation(keys::GKE_PRINCIPAL).is_some_and(|value| value == "true"),
        }
    }

    /// Whom it impersonates: the account that the spec names, else the one of its annotation.
    pub fn google_service_account(
        &self,
        named: Option<&ServiceAccountEmail>,
    ) -> Result<ServiceAccountEmail, Problem> {
        let Self { namespace, name, annotated, .. } = self;
        let annotation = keys::GKE_SERVICE_ACCOUNT;
        match (named, annotated) {
            (Some(email), _) => Ok(email.clone()),
            (None, Some(email)) => ServiceAccountEmail::parse(email.trim()).map_err(|why| {
                let email: String = email.chars().take(80).collect();
                Problem::on_change(
                    Reason::ServiceAccountNotAnnotated,
                    format!("ServiceAccount {namespace}/{name}: annotation {annotation} {email:?} is not valid: {why}"),
                )
            }),
            (None, None) if self.is_principal => Err(Problem::on_change(
                Reason::NoServiceAccountForIdToken,
                format!(
                    "ServiceAccount {namespace}/{name} is a federated principal by itself (annotation {}), and Google signs no ID \
                     token for one; annotate it with {annotation}: NAME@PROJECT.iam.gserviceaccount.com, or set \
                     spec.source.kubernetesServiceAccount.googleServiceAccount",
                    keys::GKE_PRINCIPAL
                ),
            )),
            (None, None) => Err(Problem::on_change(
                Reason::ServiceAccountNotAnnotated,
                format!(
                    "ServiceAccount {namespace}/{name} has no annotation {annotation}, and without a Google service account there is \
                     no ID token; annotate it, or set spec.source.kubernetesServiceAccount.googleServiceAccount"
                ),
            )),
        }
    }

    /// What tells this state of the account from another: another UID or annotation is another credential.
    #[must_use]
    pub fn version(&self) -> String {
        let text =
            serde_json::json!({"uid": self.uid, "annotated": self.annotated, "principal": self.is_principal});
        sha256_hex(text.to_string().as_bytes())
    }
}

/// Refuses a Secret that does not carry the label which makes it a credential.
pub fn check_label(secret: &str, metadata: &ObjectMeta) -> Result<(), Problem> {
    let none = BTreeMap::new();
    let labels = metadata.labels.as_ref().unwrap_or(&none);
    if labels.get(keys::CREDENTIAL).is_some_and(|value| value == "true") {
        return Ok(());
    }
    Err(Problem::on_change(
        Reason::CredentialsNotAllowed,
        format!(
            "Secret {secret} is not labelled as a credential for bindings; whoever may change it can allow it: kubectl label secret \
             {secret} {}=true",
            keys::CREDENTIAL
        ),
    ))
}

/// The problem of a Secret that is not there.
#[must_use]
pub fn secret_missing(secret: &str) -> Problem {
    let mend = format!("create it, with the label {}=true", keys::CREDENTIAL);
    Problem::on_change(Reason::CredentialsNotFound, format!("Secret {secret} does not exist; {mend}"))
}

/// The problem of a key that a Secret lacks.
#[must_use]
pub fn key_missing(at: &SecretKey) -> Problem {
    let SecretKey { name, key } = at;
    Problem::on_change(Reason::CredentialsNotFound, format!("Secret {name} has no key {key}; add it"))
}

/// The problem of a ServiceAccount that is not there.
#[must_use]
pub fn account_missing(namespace: &str, name: &str) -> Problem {
    Problem::on_change(
        Reason::CredentialsNotFound,
        format!("ServiceAccount {namespace}/{name} does not exist; create it"),
    )
}

/// What tells this state of the Secrets from another: their UIDs and resourceVersions, in the order in which the source names
/// them. No version is known of something that has neither.
#[must_use]
pub fn secrets_version<'a>(secrets: impl IntoIterator<Item = &'a ObjectMeta>) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let versions: Vec<_> = secrets.into_iter().map(|m| [text(&m.uid), text(&m.resource_version)]).collect();
    sha256_hex(serde_json::json!(versions).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(annotations: &[(&str, &str)]) -> Account {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Account::of(&ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some("app".to_owned()),
            uid: Some("u1".to_owned()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        })
    }

    #[test]
    fn the_spec_wins_over_the_annotation_and_each_lack_has_its_reason() {
        let annotated = account(&[("iam.gke.io/gcp-service-account", "caller@p.iam.gserviceaccount.com")]);
        assert_eq!(
            annotated.google_service_account(None).unwrap().as_str(),
            "caller@p.iam.gserviceaccount.com"
        );
        let named = ServiceAccountEmail::parse("other@p.iam.gserviceaccount.com").unwrap();
        assert_eq!(annotated.google_service_account(Some(&named)).unwrap(), named);
        let table = [
            (account(&[]), Reason::ServiceAccountNotAnnotated, "ServiceAccount shop/app has no annotation"),
            (
                account(&[("iam.gke.io/gcp-service-account", "  ")]),
                Reason::ServiceAccountNotAnnotated,
                "ServiceAccount shop/app has no annotation",
            ),
            (
                account(&[("iam.gke.io/gcp-service-account", "../x")]),
                Reason::ServiceAccountNotAnnotated,
                "ServiceAccount shop/app: annotation iam.gke.io/gcp-service-account \"../x\" is not valid",
            ),
            (
                account(&[("iam.gke.io/return-principal-id-as-email", "true")]),
                Reason::NoServiceAccountForIdToken,
                "ServiceAccount shop/app is a federated principal by itself",
            ),
        ];
        for (account, reason, message) in table {
            let problem = account.google_service_account(None).unwrap_err();
            assert_eq!(problem.reason, reason, "{problem:?}");
            assert!(problem.message.starts_with(message), "{problem:?}");
        }
    }

    #[test]
    fn another_uid_or_annotation_is_another_credential() {
        let one = account(&[]);
        assert_eq!(one.version(), account(&[("unrelated", "x")]).version());
        assert_ne!(one.version(), Account { uid: "u2".to_owned(), ..one.clone() }.version());
        assert_ne!(one.version(), account(&[("iam.gke.io/gcp-service-account", "x")]).version());
    }

    #[test]
    fn only_a_labelled_secret_may_be_used() {
        let labelled = |value: &str| ObjectMeta {
            labels: Some(BTreeMap::from([("idtoken.dev/credential".to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        };
        assert_eq!(check_label("key", &labelled("true")), Ok(()));
        for metadata in [labelled("false"), labelled(""), ObjectMeta::default()] {
            let problem = check_label("key", &metadata).unwrap_err();
            assert_eq!(problem.reason, Reason::CredentialsNotAllowed);
            assert_eq!(
                problem.message,
                "Secret key is not labelled as a credential for bindings; whoever may change it can allow it: kubectl label secret key idtoken.dev/credential=true"
            );
        }
    }

    #[test]
    fn a_written_or_replaced_secret_is_another_version() {
        let secret = |uid: &str, version: &str| ObjectMeta {
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        let version = |secrets: &[ObjectMeta]| secrets_version(secrets);
        let before = version(&[secret("a", "1"), secret("b", "1")]);
        assert_eq!(before, version(&[secret("a", "1"), secret("b", "1")]));
        for after in [
            [secret("a", "2"), secret("b", "1")],
            [secret("a", "1"), secret("c", "1")],
            [secret("b", "1"), secret("a", "1")],
        ] {
            assert_ne!(before, version(&after));
        }
    }
}
