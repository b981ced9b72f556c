//! A service account key file: of it only the key material and the account are read, never a URL.

use std::path::PathBuf;

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Uri;
use jiff::Timestamp;
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    Error,
    endpoints::encode,
    google_error,
    http::{Http, Request},
    operator::AccessToken,
};

/// The operator's own key file. It is read again for every access token, so that it can be replaced.
#[derive(Debug)]
pub(super) struct KeyFile {
    http: Http,
    oauth_token: Uri,
    path: PathBuf,
}

/// Why a key file can't be used. The texts never hold its content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read.
    #[error("credential file {path} can't be read: {cause}")]
    Read {
        /// Where it was looked for.
        path: String,
        /// What the system said.
        cause: std::io::ErrorKind,
    },
    /// It is not of type `service_account`.
    #[error("credential file {path} is not of type service_account; other types are refused")]
    Type {
        /// Where it stands.
        path: String,
    },
    /// A field is missing or broken.
    #[error("credential file {path}: {field} is missing or broken; download the key again")]
    Field {
        /// Where it stands.
        path: String,
        /// Which field.
        field: &'static str,
    },
}

impl KeyFileError {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}

impl KeyFile {
    pub(super) fn new(http: Http, oauth_token: Uri, path: PathBuf) -> Self {
        Self { http, oauth_token, path }
    }

    pub(super) async fn email(&self) -> Result<String, Error> {
        Ok(self.read().await?.client_email)
    }

    /// An access token for the account of the file, by a signed assertion.
    pub(super) async fn access_token(&self) -> Result<AccessToken, Error> {
        let key = self.read().await?;
        let action = format!("OAuth token for {}", key.client_email);
        let assertion = self.assertion(&key, crate::clock::now())?;
        let form = format!(
            "grant_type={}&assertion={}",
            encode("urn:ietf:params:oauth:grant-type:jwt-bearer"),
            encode(&assertion)
        );
        let reply = self
            .http
            .call(Request::post_form(self.oauth_token.clone(), form))
            .await
            .map_err(|cause| Error::Call { action: action.clone(), cause })?;
        if !reply.status.is_success() {
            let mend = "check that the key still exists and that the clock is right";
            return Err(google_error::from_reply(&action, &reply, mend));
        }
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        Ok(AccessToken::new(Zeroizing::new(answer.access_token), answer.expires_in))
    }

    fn assertion(&self, key: &Key, now: Timestamp) -> Result<Zeroizing<String>, KeyFileError> {
        let broken = |field| KeyFileError::Field { path: self.path.display().to_string(), field };
        let der = PrivatePkcs8KeyDer::from_pem_slice(key.private_key.as_bytes())
            .map_err(|_| broken("private_key"))?;
        let pair = KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| broken("private_key"))?;
        let header = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": key.private_key_id});
        let iat = now.as_second();
        let claims = serde_json::json!({
            "iss": key.client_email,
            "sub": key.client_email,
            "aud": self.oauth_token.to_string(),
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "iat": iat,
            "exp": iat + 3600,
        });
        let encoded = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encoded(&header), encoded(&claims));
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .map_err(|_| broken("private_key"))?;
        Ok(Zeroizing::new(format!("{input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
    }

    async fn read(&self) -> Result<Key, KeyFileError> {
        let path = || self.path.display().to_string();
        let text = tokio::fs::read(&self.path)
            .await
            .map(Zeroizing::new)
            .map_err(|e| KeyFileError::Read { path: path(), cause: e.kind() })?;
        let file: File = serde_json::from_slice(&text)
            .map_err(|_| KeyFileError::Field { path: path(), field: "the JSON object" })?;
        if file.type_ != "service_account" {
            return Err(KeyFileError::Type { path: path() });
        }
        let need = |value: Option<String>, field| {
            value.filter(|v| !v.is_empty()).ok_or_else(|| KeyFileError::Field { path: path(), field })
        };
        Ok(Key {
            client_email: need(file.client_email, "client_email")?,
            private_key: Zeroizing::new(need(file.private_key, "private_key")?),
            private_key_id: need(file.private_key_id, "private_key_id")?,
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

#[allow(clippy::struct_field_names)] // Google's names
struct Key {
    client_email: String,
    private_key: Zeroizing<String>,
    private_key_id: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type", default)]
    type_: String,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
}
