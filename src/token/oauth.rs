//! The OAuth token endpoint: assertions of service accounts, and people's refresh tokens.

use http::Uri;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{
    Error,
    credential_file::{Unusable, UserGrant},
    http::{Http, Reply, Request},
    key::Key,
    operator::AccessToken,
};

/// The OAuth token endpoint.
#[derive(Clone, Debug)]
pub(super) struct Oauth {
    http: Http,
    url: Uri,
}

/// An answer that gives access. Other fields are ignored.
#[derive(Deserialize)]
pub(super) struct AccessAnswer {
    access_token: super::credential_file::Hidden,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: u64,
}

impl Oauth {
    pub(super) fn new(http: Http, url: Uri) -> Self {
        Self { http, url }
    }

    /// An assertion of `key` that asks for `wanted`: a claim and its value.
    pub(super) fn assertion(&self, key: &Key, wanted: (&str, &str)) -> Result<Zeroizing<String>, Unusable> {
        key.assertion(&self.url.to_string(), wanted, crate::clock::now())
    }

    /// Sends an assertion.
    pub(super) async fn assert(&self, action: &str, assertion: &str) -> Result<Reply, Error> {
        let grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        self.post(action, &[("grant_type", grant_type), ("assertion", assertion)]).await
    }

    /// Sends a person's refresh token.
    pub(super) async fn refresh(&self, action: &str, grant: &UserGrant) -> Result<Reply, Error> {
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", grant.client_id.as_str()),
            ("client_secret", grant.client_secret.as_str()),
            ("refresh_token", grant.refresh_token.as_str()),
        ];
        self.post(action, &fields).await
    }

    async fn post(&self, action: &str, fields: &[(&str, &str)]) -> Result<Reply, Error> {
        let call = self.http.call(Request::post_form(self.url.clone(), fields));
        call.await.map_err(|cause| Error::Call { action: action.to_owned(), cause })
    }
}

impl AccessAnswer {
    /// The access token in a successful `reply`.
    pub(super) fn read(action: &str, reply: &Reply) -> Result<AccessToken, Error> {
        let answer: Self =
            serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action: action.to_owned() })?;
        Ok(AccessToken::new(answer.access_token.0, answer.expires_in))
    }
}

/// Seconds that may be absent, null or nonsense: the token then counts as over at once.
fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    Ok(serde_json::Value::deserialize(value)?.as_u64().unwrap_or_default())
}
