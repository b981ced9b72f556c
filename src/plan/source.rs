//! Where a token comes from: the union of a binding's spec, parsed.

mod parse;

use std::fmt;

use serde::Serialize;

use crate::api::{binding, grant::TokenKind};

pub(super) use self::parse::{invalid, parse};

/// The audience of a token: non-empty, printable ASCII without blanks, at most 2048 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Audience(String);

/// E-mail address of a Google service account. Fit for a URL path: letters, digits, `.`, `-` and one `@`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceAccountEmail(String);

/// Full name of a workload identity provider:
/// `projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ProviderName(String);

/// One key of one Secret of the binding's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SecretKey {
    /// `metadata.name`.
    pub name: String,
    /// The key in `data`.
    pub key: String,
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A ServiceAccount of the binding's namespace, exchanged by workload identity federation.
    KubernetesServiceAccount {
        /// `metadata.name` of the ServiceAccount.
        name: String,
        /// Whom it impersonates; `None`: whom its annotation names.
        google_service_account: Option<ServiceAccountEmail>,
        /// Who vouches for it; `None`: this GKE cluster's own pool.
        provider: Option<ProviderName>,
    },
    /// The operator impersonates a service account through a chain of delegates.
    Impersonation {
        /// Whom the token is for.
        service_account: ServiceAccountEmail,
        /// First to last, without the operator and without the target.
        delegates: Vec<ServiceAccountEmail>,
    },
    /// The operator's own identity, from the metadata server.
    MetadataServer,
    /// A service account key in a Secret.
    ServiceAccountKey {
        /// Where the key file stands.
        file: SecretKey,
    },
    /// A user of Identity Platform, by password.
    IdentityPlatform {
        /// The user's tenant; `None`: a user of the project.
        tenant: Option<String>,
        /// Where the web API key stands.
        api_key: SecretKey,
        /// Where the e-mail address stands.
        email: SecretKey,
        /// Where the password stands.
        password: SecretKey,
    },
    /// gcloud's credentials of a person, in a Secret.
    UserCredentials {
        /// Where the `authorized_user` file stands.
        file: SecretKey,
    },
    /// A JWT that a service account signs, through the operator's identity.
    SignedJwt {
        /// Who signs.
        service_account: ServiceAccountEmail,
    },
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
    /// The identity as grants name it: `operator`, or the e-mail address of the account that the operator acts as. `None`: the
    /// source has an authority of its own and needs no grant.
    #[must_use]
    pub fn granted_identity(&self) -> Option<&str> {
        match self {
            Self::MetadataServer => Some("operator"),
            Self::Impersonation { service_account, .. } | Self::SignedJwt { service_account } => {
                Some(service_account.as_str())
            }
            Self::KubernetesServiceAccount { .. }
            | Self::ServiceAccountKey { .. }
            | Self::IdentityPlatform { .. }
            | Self::UserCredentials { .. } => None,
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
            Self::SignedJwt { .. } => TokenKind::SignedJwt,
            _ => TokenKind::IdToken,
        }
    }

    /// The keys of Secrets that hold its credentials.
    #[must_use]
    pub fn secrets(&self) -> Vec<&SecretKey> {
        match self {
            Self::ServiceAccountKey { file } | Self::UserCredentials { file } => vec![file],
            Self::IdentityPlatform { api_key, email, password, .. } => vec![api_key, email, password],
            Self::KubernetesServiceAccount { .. }
            | Self::Impersonation { .. }
            | Self::MetadataServer
            | Self::SignedJwt { .. } => Vec::new(),
        }
    }

    /// Whether the audience is the caller's to choose; else it is what the source puts into every token.
    #[must_use]
    pub fn chooses_audience(&self) -> bool {
        !matches!(self, Self::IdentityPlatform { .. } | Self::UserCredentials { .. })
    }

    /// The name of this source in metrics and messages.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::KubernetesServiceAccount { .. } => "kubernetesServiceAccount",
            Self::Impersonation { .. } => "impersonation",
            Self::MetadataServer => "metadataServer",
            Self::ServiceAccountKey { .. } => "serviceAccountKey",
            Self::IdentityPlatform { .. } => "identityPlatform",
            Self::UserCredentials { .. } => "userCredentials",
            Self::SignedJwt { .. } => "signedJwt",
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

    /// Whether it is a service of Google's APIs, in the public universe or in `universe`: a JWT signed for it would be an access
    /// credential. That is what stands on or below `googleapis.com`, `accounts.google.com` or the universe's domain, as a URL or a bare name, in
    /// any case, with any port, user information or final dot.
    #[must_use]
    pub fn is_google_api(&self, universe: &str) -> bool {
        let text = self.0.to_ascii_lowercase();
        // Whoever reads `\` as `/`, as browsers do, must find nothing else.
        let text = text.replace('\\', "/");
        let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
        let rest = rest.trim_start_matches('/');
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = host.split_once(':').map_or(host, |(host, _)| host).trim_end_matches('.');
        ["googleapis.com", "accounts.google.com", universe].into_iter().any(|domain| {
            host == domain || host.strip_suffix(domain).is_some_and(|before| before.ends_with('.'))
        })
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

impl ProviderName {
    /// Accepts the full name, with the project's number.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let id = |part: &str| {
            (4..=32).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let parts: Vec<_> = text.split('/').collect();
        let fits = matches!(
            parts.as_slice(),
            ["projects", number, "locations", "global", "workloadIdentityPools", pool, "providers", provider]
                if (1..=20).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()) && id(pool) && id(provider)
        );
        let mend = "write projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER";
        if fits { Ok(Self(text.to_owned())) } else { Err(mend) }
    }

    /// How the Security Token Service is told of it, and the audience of the tokens that it takes by default.
    #[must_use]
    pub fn audience(&self) -> String {
        format!("//iam.googleapis.com/{}", self.0)
    }

    /// The IAM member that `subject` is in the provider's pool.
    #[must_use]
    pub fn principal(&self, subject: &str) -> String {
        let pool = self.0.split_once("/providers/").map_or(self.0.as_str(), |(pool, _)| pool);
        format!("principal://iam.googleapis.com/{pool}/subject/{subject}")
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

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}, key {}", self.name, self.key)
    }
}

#[cfg(test)]
mod tests;
