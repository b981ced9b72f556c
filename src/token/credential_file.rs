//! Google's credential files. Of each only key material, accounts and names are read: never the URL of an API.

use std::fmt;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{external::ExternalAccount, key::Key};
use crate::{
    api::Reason,
    plan::{
        Problem,
        source::{SecretKey, ServiceAccountEmail},
    },
};

/// A file of a type that serves somewhere.
#[derive(Debug)]
pub(super) enum CredentialFile {
    /// `service_account`.
    ServiceAccount(Key),
    /// `authorized_user`.
    User(UserGrant),
    /// `external_account`: workload identity federation.
    External(ExternalAccount),
    /// `impersonated_service_account`.
    Impersonated(Impersonated),
}

/// What a person granted to an OAuth client.
pub(super) struct UserGrant {
    /// The OAuth client's ID.
    pub(super) client_id: String,
    /// Its secret.
    pub(super) client_secret: Zeroizing<String>,
    /// The refresh token.
    pub(super) refresh_token: Zeroizing<String>,
}

/// An account to be impersonated, by whom the nested file stands for.
#[derive(Debug)]
pub(super) struct Impersonated {
    /// Who impersonates.
    pub(super) source: Box<CredentialFile>,
    /// Who is impersonated.
    pub(super) target: ServiceAccountEmail,
    /// The chain from one to the other.
    pub(super) delegates: Vec<ServiceAccountEmail>,
}

/// What is wrong with a credential file. The texts follow the file's name, and hold nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Bytes that are no text.
    #[error("is not UTF-8 text")]
    NotText,
    /// Blanks or other signs where a key has none.
    #[error("has blanks or other signs in it that no API key has")]
    NotKey,
    /// No JSON, or fields of wrong types.
    #[error("is no JSON object with the fields of a credential file")]
    NotJson,
    /// No `type`, or one that is not Google's.
    #[error("is of no known type")]
    NoType,
    /// A type of Google's that does not serve here.
    #[error("is of type {0}")]
    Type(&'static str),
    /// A field is missing, empty, or not of its form.
    #[error("has no usable {0}")]
    Field(&'static str),
    /// The private key is no PEM block.
    #[error("has a private_key that is cut off or is no PKCS#8 PEM")]
    Pem,
    /// The private key is of another kind.
    #[error("has a private_key that is broken or is no RSA key of at least 2048 bits")]
    Rsa,
    /// An `external_account` whose subject tokens come from a program, from AWS or from a certificate.
    #[error("has a credential_source that is neither a file nor a URL")]
    CredentialSource,
    /// An `external_account` that is plain HTTP beyond this machine.
    #[error("has a credential_source.url that is neither https nor on loopback or link-local")]
    CredentialUrl,
    /// An `external_account` of a workforce.
    #[error("is for workforce identity federation")]
    Workforce,
}

impl CredentialFile {
    /// Reads the text of a file.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Unusable> {
        Self::of(File::parse(text)?)
    }

    /// Whether it is a person's, by itself or behind an impersonation.
    pub(super) fn is_users(&self) -> bool {
        match self {
            Self::User(_) => true,
            Self::Impersonated(impersonated) => impersonated.source.is_users(),
            Self::ServiceAccount(_) | Self::External(_) => false,
        }
    }

    /// Whose it is, where that is a service account.
    pub(super) fn account(&self) -> Option<&ServiceAccountEmail> {
        match self {
            Self::ServiceAccount(key) => Some(&key.account),
            Self::External(external) => external.target.as_ref(),
            Self::Impersonated(impersonated) => Some(&impersonated.target),
            Self::User(_) => None,
        }
    }

    fn of(file: File) -> Result<Self, Unusable> {
        match file.kind()? {
            "service_account" => file.key().map(Self::ServiceAccount),
            "authorized_user" => file.user().map(Self::User),
            "external_account" => ExternalAccount::of(&file).map(Self::External),
            "impersonated_service_account" => file.impersonated().map(Self::Impersonated),
            other => Err(Unusable::Type(other)),
        }
    }
}

/// What one source takes of credential files.
pub(super) struct Takes {
    /// The field of the spec.
    pub(super) field: &'static str,
    /// The only type.
    pub(super) type_: &'static str,
    /// How a file of it is made.
    pub(super) mend: &'static str,
}

impl Takes {
    /// The problem of the file in a Secret.
    pub(super) fn refuse(&self, at: &SecretKey, why: Unusable) -> Problem {
        let Self { field, type_, mend } = self;
        let mend = match why {
            Unusable::Type("service_account") => {
                "spec.source.serviceAccountKey takes files of that type".to_owned()
            }
            Unusable::Type("authorized_user") => {
                "spec.source.userCredentials takes files of that type".to_owned()
            }
            Unusable::Type(_) | Unusable::NoType => format!("{field} takes files of type {type_} only"),
            _ => format!("put the whole file there that {mend} writes"),
        };
        Problem::on_change(Reason::CredentialsNotAllowed, format!("{at} {why}; {mend}"))
    }
}

/// A `service_account` file's key.
pub(super) fn parse_key(text: &[u8]) -> Result<Key, Unusable> {
    let file = File::parse(text)?;
    file.expect("service_account")?;
    file.key()
}

/// An `authorized_user` file's grant.
pub(super) fn parse_user(text: &[u8]) -> Result<UserGrant, Unusable> {
    let file = File::parse(text)?;
    file.expect("authorized_user")?;
    file.user()
}

/// Every field of every type that is read. What is secret is wiped when dropped.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(rename = "type")]
    type_: Option<String>,
    client_email: Option<String>,
    private_key: Option<Hidden>,
    private_key_id: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Hidden>,
    refresh_token: Option<Hidden>,
    #[serde(default)]
    delegates: Vec<String>,
    source_credentials: Option<Box<File>>,
    service_account_impersonation_url: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) subject_token_type: Option<String>,
    pub(super) workforce_pool_user_project: Option<String>,
    pub(super) credential_source: Option<super::external::CredentialSource>,
}

impl File {
    fn parse(text: &[u8]) -> Result<Self, Unusable> {
        if text.trim_ascii().is_empty() {
            return Err(Unusable::Empty);
        }
        let text = std::str::from_utf8(text).map_err(|_| Unusable::NotText)?;
        // Derived code would also read a list as the fields in their order.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(Unusable::NotJson);
        }
        serde_json::from_str(text).map_err(|_| Unusable::NotJson)
    }

    /// One of Google's types, spelt by us.
    fn kind(&self) -> Result<&'static str, Unusable> {
        let type_ = self.type_.as_deref().unwrap_or_default();
        TYPES.into_iter().find(|known| *known == type_).ok_or(Unusable::NoType)
    }

    fn expect(&self, kind: &str) -> Result<(), Unusable> {
        match self.kind()? {
            same if same == kind => Ok(()),
            other => Err(Unusable::Type(other)),
        }
    }

    fn key(&self) -> Result<Key, Unusable> {
        let email = ServiceAccountEmail::parse(self.client_email.as_deref().unwrap_or_default())
            .map_err(|_| Unusable::Field("client_email"))?;
        let id = given(self.private_key_id.as_ref(), "private_key_id")?;
        let pem = self.private_key.as_ref().filter(|key| !key.0.is_empty());
        Key::new(email, id, &pem.ok_or(Unusable::Field("private_key"))?.0)
    }

    fn user(&self) -> Result<UserGrant, Unusable> {
        let secret = |value: &Option<Hidden>, field| {
            let value = value.as_ref().filter(|value| !value.0.is_empty());
            value.map(|value| value.0.clone()).ok_or(Unusable::Field(field))
        };
        Ok(UserGrant {
            client_id: given(self.client_id.as_ref(), "client_id")?,
            client_secret: secret(&self.client_secret, "client_secret")?,
            refresh_token: secret(&self.refresh_token, "refresh_token")?,
        })
    }

    fn impersonated(mut self) -> Result<Impersonated, Unusable> {
        let target = self.target()?.ok_or(Unusable::Field("service_account_impersonation_url"))?;
        let delegate = |text: &String| {
            let email = text.strip_prefix("projects/-/serviceAccounts/").unwrap_or(text);
            ServiceAccountEmail::parse(email).map_err(|_| Unusable::Field("delegates"))
        };
        let delegates = self.delegates.iter().map(delegate).collect::<Result<_, _>>()?;
        let source = self.source_credentials.take().ok_or(Unusable::Field("source_credentials"))?;
        if source.kind()? == "impersonated_service_account" {
            return Err(Unusable::Field("source_credentials"));
        }
        Ok(Impersonated { source: Box::new(CredentialFile::of(*source)?), target, delegates })
    }

    /// The account that the URL of an impersonation names; of that URL nothing else is used.
    pub(super) fn target(&self) -> Result<Option<ServiceAccountEmail>, Unusable> {
        let Some(url) = self.service_account_impersonation_url.as_deref().filter(|url| !url.is_empty())
        else {
            return Ok(None);
        };
        let account = url
            .rsplit_once("/serviceAccounts/")
            .and_then(|(_, rest)| rest.strip_suffix(":generateAccessToken"))
            .map(|email| email.replace("%40", "@"));
        let email = account.and_then(|email| ServiceAccountEmail::parse(&email).ok());
        email.map(Some).ok_or(Unusable::Field("service_account_impersonation_url"))
    }
}

impl fmt::Debug for UserGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserGrant([redacted])")
    }
}

/// A text that is wiped when dropped.
pub(super) struct Hidden(pub(super) Zeroizing<String>);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        String::deserialize(value).map(|text| Self(Zeroizing::new(text)))
    }
}

fn given(value: Option<&String>, field: &'static str) -> Result<String, Unusable> {
    value.filter(|value| !value.is_empty()).cloned().ok_or(Unusable::Field(field))
}

/// Google's types of credential files.
const TYPES: [&str; 6] = [
    "service_account",
    "authorized_user",
    "external_account",
    "impersonated_service_account",
    "external_account_authorized_user",
    "gdch_service_account",
];
