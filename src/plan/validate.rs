//! Binding → [`Wanted`]: parsed once, so that nothing after it needs to check a spec again.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{Problem, secret::sha256_hex};
use crate::api::{IdTokenBinding, Reason, binding, grant::TokenKind};

/// The audience of a token: non-empty, printable ASCII without blanks, at most 2048 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Audience(String);

/// E-mail address of a Google service account. Fit for a URL path: letters, digits, `.`, `-` and one `@`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceAccountEmail(String);

/// Where a token comes from, of the sources that this version implements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The operator's own identity, from the metadata server.
    MetadataServer,
    /// The operator impersonates a service account through a chain of delegates.
    Impersonation {
        /// Whom the token is for.
        service_account: ServiceAccountEmail,
        /// First to last, without the operator and without the target.
        delegates: Vec<ServiceAccountEmail>,
    },
}

/// What a valid binding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The `aud` of the token.
    pub audience: Audience,
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub secret: SecretSpec,
    /// Part of the lifetime after which it is replaced, percent.
    pub refresh_percent: u8,
    /// Whether the binding rests.
    pub suspend: bool,
    /// The forced refresh that the user asked for, as written.
    pub refresh_requested: Option<String>,
    /// Lower-case hex SHA-256 over what decides which token and which keys belong in the Secret.
    pub spec_hash: String,
}

/// The Secret that a binding asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretSpec {
    /// Its name.
    pub name: String,
    /// Key of the raw token.
    pub key: String,
    /// Key of `Bearer <token>`.
    pub authorization_key: Option<String>,
    /// Labels from the binding.
    pub labels: BTreeMap<String, String>,
    /// Annotations from the binding.
    pub annotations: BTreeMap<String, String>,
}

/// Parses the spec of `binding`. The CRD's rules refuse most bad specs; what an older CRD let pass ends here.
pub fn validate(binding: &IdTokenBinding) -> Result<Wanted, Problem> {
    let spec = &binding.spec;
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    let audience =
        Audience::parse(&spec.audience).map_err(|why| invalid("spec.audience", &spec.audience, why))?;
    let source = source(&spec.source)?;
    let secret = secret(name, &spec.secret)?;
    let percent = spec.refresh.at_lifetime_percent;
    let refresh_percent = u8::try_from(percent)
        .ok()
        .filter(|p| (20..=90).contains(p))
        .ok_or_else(|| invalid("spec.refresh.atLifetimePercent", &percent.to_string(), "choose 20 to 90"))?;
    let spec_hash = spec_hash(&audience, &source, &secret);
    let refresh_requested = binding
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(crate::api::annotations::REFRESH_REQUESTED_AT))
        .cloned();
    Ok(Wanted {
        audience,
        source,
        secret,
        refresh_percent,
        suspend: spec.suspend,
        refresh_requested,
        spec_hash,
    })
}

/// The member of the union that is set, as shown in the SOURCE column; empty when none or several are.
#[must_use]
pub fn source_name(source: &binding::Source) -> &'static str {
    let set = [
        (source.kubernetes_service_account.is_some(), "kubernetesServiceAccount"),
        (source.impersonation.is_some(), "impersonation"),
        (source.metadata_server.is_some(), "metadataServer"),
        (source.service_account_key.is_some(), "serviceAccountKey"),
        (source.identity_platform.is_some(), "identityPlatform"),
        (source.user_credentials.is_some(), "userCredentials"),
        (source.signed_jwt.is_some(), "signedJwt"),
    ];
    let mut names = set.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name);
    match (names.next(), names.next()) {
        (Some(one), None) => one,
        _ => "",
    }
}

impl Source {
    /// The identity as grants name it: `operator` or the e-mail address of the impersonated account.
    #[must_use]
    pub fn granted_identity(&self) -> &str {
        match self {
            Self::MetadataServer => "operator",
            Self::Impersonation { service_account, .. } => service_account.as_str(),
        }
    }

    /// Whether a delegation chain is involved.
    #[must_use]
    pub fn is_chained(&self) -> bool {
        matches!(self, Self::Impersonation { delegates, .. } if !delegates.is_empty())
    }

    /// What is made with the operator's identity.
    #[must_use]
    pub fn kind(&self) -> TokenKind {
        match self {
            Self::MetadataServer | Self::Impersonation { .. } => TokenKind::IdToken,
        }
    }

    /// The name of this source in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::MetadataServer => "metadataServer",
            Self::Impersonation { .. } => "impersonation",
        }
    }
}

impl Audience {
    /// Accepts 1 to 2048 printable ASCII characters without blanks.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > 2048 {
            return Err("write 1 to 2048 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("use printable ASCII characters without blanks");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServiceAccountEmail {
    /// Accepts `NAME@….gserviceaccount.com`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const MEND: &str =
            "write the e-mail address of a Google service account (NAME@PROJECT.iam.gserviceaccount.com)";
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
        };
        let (local, domain) = text.split_once('@').ok_or(MEND)?;
        let fits =
            text.len() <= 254 && plain(local) && plain(domain) && domain.ends_with(".gserviceaccount.com");
        if fits { Ok(Self(text.to_owned())) } else { Err(MEND) }
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServiceAccountEmail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn source(source: &binding::Source) -> Result<Source, Problem> {
    match source_name(source) {
        "" => Err(invalid("spec.source", "{…}", "set exactly one source")),
        "metadataServer" => Ok(Source::MetadataServer),
        "impersonation" => {
            let wanted = source.impersonation.clone().unwrap_or_default();
            let email = |field: &str, text: &str| {
                ServiceAccountEmail::parse(text).map_err(|why| invalid(field, text, why))
            };
            Ok(Source::Impersonation {
                service_account: email("spec.source.impersonation.serviceAccount", &wanted.service_account)?,
                delegates: wanted
                    .delegates
                    .iter()
                    .map(|d| email("spec.source.impersonation.delegates", d))
                    .collect::<Result<_, _>>()?,
            })
        }
        other => Err(Problem::on_change(
            Reason::Unsupported,
            format!(
                "spec.source.{other} is not implemented in this version; use impersonation or metadataServer"
            ),
        )),
    }
}

fn secret(binding: &str, target: &binding::SecretTarget) -> Result<SecretSpec, Problem> {
    let key_mend = "use letters, digits, '-', '_' and '.', not starting with '..'";
    if !is_secret_key(&target.key) {
        return Err(invalid("spec.secret.key", &target.key, key_mend));
    }
    let authorization_key = Some(&target.authorization_key).filter(|k| !k.is_empty()).cloned();
    if let Some(key) = &authorization_key {
        if !is_secret_key(key) {
            return Err(invalid("spec.secret.authorizationKey", key, key_mend));
        }
        if *key == target.key {
            return Err(invalid(
                "spec.secret.authorizationKey",
                key,
                "choose another key than spec.secret.key",
            ));
        }
    }
    for (field, map) in
        [("spec.secret.labels", &target.labels), ("spec.secret.annotations", &target.annotations)]
    {
        if let Some(key) = map.keys().find(|k| is_reserved(k)) {
            return Err(invalid(field, key, "remove it: the prefix is reserved"));
        }
    }
    Ok(SecretSpec {
        name: target.name_for(binding),
        key: target.key.clone(),
        authorization_key,
        labels: target.labels.clone(),
        annotations: target.annotations.clone(),
    })
}

fn is_secret_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..")
}

fn is_reserved(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let below =
        |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|p| p.ends_with('.'));
    prefix == "idtoken.dev" || prefix == "argocd.argoproj.io" || below("kubernetes.io") || below("fluxcd.io")
}

fn spec_hash(audience: &Audience, source: &Source, secret: &SecretSpec) -> String {
    let keys = [Some(&secret.key), secret.authorization_key.as_ref()];
    let text = serde_json::json!({"v": 1, "audience": audience, "source": source, "keys": keys}).to_string();
    sha256_hex(text.as_bytes())
}

fn invalid(field: &str, value: &str, mend: &str) -> Problem {
    let value: String = value.chars().take(80).collect();
    Problem::on_change(Reason::InvalidSpec, format!("{field} {value:?} is not valid: {mend}"))
}

#[cfg(test)]
mod tests;
