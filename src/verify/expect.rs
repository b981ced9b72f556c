//! What a token must say to be the one that was asked for: fixed by the source, never taken from a token. Pure.

use std::fmt;

use crate::plan::source::{Audience, Source};

/// Both forms in which Google writes its issuer.
const GOOGLE: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// How the issuer of Identity Platform's tokens begins; `/` and the project's id follow.
const IDENTITY_PLATFORM: &str = "https://securetoken.google.com";

/// What a token must say to be the one that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Who must have issued it.
    pub issuer: Issuer<'a>,
    /// The one `aud`.
    pub audience: &'a str,
    /// Whom it must be for.
    pub identity: Identity<'a>,
}

/// Who issues tokens. Fixed by the source, never taken from a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer<'a> {
    /// Google, in both forms that it writes.
    Google,
    /// Identity Platform, for the project of this id.
    IdentityPlatform(&'a str),
    /// A service account, by its e-mail address.
    ServiceAccount(&'a str),
}

/// Whom a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// `email` is this very address, and verified.
    Email(&'a str),
    /// `email` is there, and verified.
    AnyEmail,
    /// A user of Identity Platform: `email` is this address where it is known, in any case, verified or not; `firebase.tenant` is
    /// this tenant, or absent.
    User {
        /// The address that was signed in with.
        email: Option<&'a str>,
        /// The tenant.
        tenant: Option<&'a str>,
    },
    /// `sub` is this service account.
    Subject(&'a str),
}

impl<'a> Expectation<'a> {
    /// What a token from `source` for `audience` must say; `email` is whom it was asked for, where that is known.
    #[must_use]
    pub fn of(source: &'a Source, audience: &'a Audience, email: Option<&'a str>) -> Self {
        let audience = audience.as_str();
        let google = |identity| Self { issuer: Issuer::Google, audience, identity };
        match source {
            Source::Impersonation { service_account, .. } => {
                google(Identity::Email(service_account.as_str()))
            }
            Source::MetadataServer
            | Source::KubernetesServiceAccount { .. }
            | Source::ServiceAccountKey { .. }
            | Source::UserCredentials { .. } => google(email.map_or(Identity::AnyEmail, Identity::Email)),
            Source::IdentityPlatform { tenant, .. } => Self {
                issuer: Issuer::IdentityPlatform(audience),
                audience,
                identity: Identity::User { email, tenant: tenant.as_deref() },
            },
            Source::SignedJwt { service_account } => Self {
                issuer: Issuer::ServiceAccount(service_account.as_str()),
                audience,
                identity: Identity::Subject(service_account.as_str()),
            },
        }
    }
}

impl Issuer<'_> {
    /// Whether `iss` is written as this issuer does.
    #[must_use]
    pub fn is(&self, iss: &str) -> bool {
        match self {
            Self::Google => GOOGLE.contains(&iss),
            Self::IdentityPlatform(project) => {
                iss.strip_prefix(IDENTITY_PLATFORM).and_then(|rest| rest.strip_prefix('/')) == Some(*project)
            }
            Self::ServiceAccount(email) => iss == *email,
        }
    }
}

/// The first form of `iss`.
impl fmt::Display for Issuer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Google => f.write_str(GOOGLE[0]),
            Self::IdentityPlatform(project) => write!(f, "{IDENTITY_PLATFORM}/{project}"),
            Self::ServiceAccount(email) => f.write_str(email),
        }
    }
}
