//! `external_account` files: a token from a file or a URL, to be exchanged for a federated one.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    credential_file::{File, Hidden, Unusable},
    endpoints::is_beyond_machine,
    http::{Http, Request},
};
use crate::plan::source::ServiceAccountEmail;

/// What an `external_account` file says.
#[derive(Debug)]
pub(super) struct ExternalAccount {
    /// Who vouches, as the Security Token Service names it.
    pub(super) audience: String,
    /// Type of the subject tokens.
    pub(super) subject_token_type: String,
    /// Whom the federated principal impersonates; `None`: it acts as itself.
    pub(super) target: Option<ServiceAccountEmail>,
    source: TokenSource,
}

/// Where subject tokens come from.
struct TokenSource {
    place: Place,
    format: Format,
}

enum Place {
    File(PathBuf),
    Url { url: Uri, headers: Vec<(HeaderName, HeaderValue)> },
}

enum Format {
    Text,
    Json { field: String },
}

/// `credential_source` as it stands in a file.
#[derive(Deserialize)]
pub(super) struct CredentialSource {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Hidden>,
    format: Option<FormatField>,
    executable: Option<serde::de::IgnoredAny>,
    environment_id: Option<serde::de::IgnoredAny>,
    certificate: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct FormatField {
    #[serde(rename = "type")]
    type_: String,
    subject_token_field_name: Option<String>,
}

/// Why there is no subject token. The texts hold no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubjectError {
    #[error("its subject token file can't be read: {0}")]
    Read(std::io::ErrorKind),
    #[error("its subject token URL: {0}")]
    Call(#[from] super::http::CallError),
    #[error("its subject token URL: HTTP {0}")]
    Status(u16),
    #[error("its subject token is empty, or not of the format that the file names")]
    Format,
}

impl ExternalAccount {
    pub(super) fn of(file: &File) -> Result<Self, Unusable> {
        let audience = file.audience.clone().unwrap_or_default();
        if audience.contains("/workforcePools/") || file.workforce_pool_user_project.is_some() {
            return Err(Unusable::Workforce);
        }
        if audience.is_empty() {
            return Err(Unusable::Field("audience"));
        }
        let types = ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];
        let type_ = file.subject_token_type.as_deref().unwrap_or_default();
        let type_ = types.iter().find(|known| **known == type_);
        let source = file.credential_source.as_ref().ok_or(Unusable::CredentialSource)?;
        Ok(Self {
            audience,
            // First: what AWS signs has a type of its own.
            source: TokenSource::of(source)?,
            subject_token_type: (*type_.ok_or(Unusable::Field("subject_token_type"))?).to_owned(),
            target: file.target()?,
        })
    }

    /// A subject token, read anew.
    pub(super) async fn subject_token(&self, http: &Http) -> Result<Zeroizing<String>, SubjectError> {
        let bytes = match &self.source.place {
            Place::File(path) => {
                Zeroizing::new(tokio::fs::read(path).await.map_err(|e| SubjectError::Read(e.kind()))?)
            }
            Place::Url { url, headers } => {
                let request = headers.iter().fold(Request::get(url.clone()), |r, (name, value)| {
                    r.header(name.clone(), value.clone())
                });
                let reply = http.call(request).await?;
                if !reply.status.is_success() {
                    return Err(SubjectError::Status(reply.status.as_u16()));
                }
                reply.body
            }
        };
        self.source.format.token(&bytes).ok_or(SubjectError::Format)
    }
}

impl TokenSource {
    fn of(source: &CredentialSource) -> Result<Self, Unusable> {
        let other =
            source.executable.is_some() || source.environment_id.is_some() || source.certificate.is_some();
        let place = match (&source.file, &source.url) {
            (Some(path), None) if !other => Place::File(path.clone()),
            (None, Some(url)) if !other => Place::url(url, &source.headers)?,
            _ => return Err(Unusable::CredentialSource),
        };
        let format = match &source.format {
            None => Format::Text,
            Some(format) if format.type_ == "text" => Format::Text,
            Some(format) if format.type_ == "json" => {
                let field = format.subject_token_field_name.clone().filter(|field| !field.is_empty());
                Format::Json { field: field.ok_or(Unusable::Field("credential_source.format"))? }
            }
            Some(_) => return Err(Unusable::Field("credential_source.format")),
        };
        Ok(Self { place, format })
    }
}

impl Place {
    fn url(url: &str, headers: &BTreeMap<String, Hidden>) -> Result<Self, Unusable> {
        let url: Uri = url.parse().map_err(|_| Unusable::CredentialUrl)?;
        let host = url.host().filter(|host| !host.is_empty()).ok_or(Unusable::CredentialUrl)?;
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if !is_beyond_machine(host) => {}
            _ => return Err(Unusable::CredentialUrl),
        }
        let header = |(name, value): (&String, &Hidden)| {
            let mut value = HeaderValue::try_from(value.0.as_str()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name).ok()?, value))
        };
        let headers: Option<Vec<_>> = headers.iter().map(header).collect();
        Ok(Self::Url { url, headers: headers.ok_or(Unusable::Field("credential_source.headers"))? })
    }
}

impl Format {
    /// The token in `bytes`, without the blanks around it that editors and mounts leave.
    fn token(&self, bytes: &[u8]) -> Option<Zeroizing<String>> {
        let text = match self {
            Self::Text => Zeroizing::new(std::str::from_utf8(bytes).ok()?.to_owned()),
            Self::Json { field } => {
                let mut fields: BTreeMap<String, serde_json::Value> = serde_json::from_slice(bytes).ok()?;
                match fields.remove(field)? {
                    serde_json::Value::String(text) => Zeroizing::new(text),
                    _ => return None,
                }
            }
        };
        let token = text.trim();
        (!token.is_empty()).then(|| Zeroizing::new(token.to_owned()))
    }
}

/// Where, without what is sent along.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.place {
            Place::File(_) => "TokenSource(file)",
            Place::Url { .. } => "TokenSource(url)",
        })
    }
}
