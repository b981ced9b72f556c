//! The OAuth token endpoint: assertions of service accounts, and people's refresh tokens.

use http::Uri;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{
    Error,
    credential_file::{Unusable, UserGrant},
    http::{Http, Reply, Request},
    key::{Key, LIFE_SECONDS},
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
    #[serde(default = "whole_life", deserialize_with = "seconds")]
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

/// Seconds. Where there are none, the life of what was sent for the token; a token with nonsense counts as over at once.
fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    Ok(match serde_json::Value::deserialize(value)? {
        serde_json::Value::Null => whole_life(),
        given => given.as_u64().unwrap_or_default(),
    })
}

/// OAuth lets the field be left out. Taken as over, such a token would be asked for anew with every call; taken for too long, it
/// is replaced when Google refuses it.
fn whole_life() -> u64 {
    LIFE_SECONDS.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_life_that_is_not_said_is_an_hour_and_nonsense_none() {
        let table = [
            (r#"{"access_token":"a"}"#, 3370),
            (r#"{"access_token":"a","expires_in":null}"#, 3370),
            (r#"{"access_token":"a","expires_in":3600}"#, 3370),
            (r#"{"access_token":"a","expires_in":100}"#, 70),
            (r#"{"access_token":"a","expires_in":0}"#, 0),
            (r#"{"access_token":"a","expires_in":-5}"#, 0),
            (r#"{"access_token":"a","expires_in":"soon"}"#, 0),
        ];
        for (body, fresh_seconds) in table {
            let body = body.as_bytes().to_vec().into();
            let reply = Reply { status: StatusCode::OK, headers: HeaderMap::new(), body };
            let token = AccessAnswer::read("action", &reply).unwrap();
            assert_eq!(token.is_fresh(), fresh_seconds > 0, "{fresh_seconds}");
            tokio::time::advance(Duration::from_secs(fresh_seconds)).await;
            assert_eq!(token.is_fresh(), fresh_seconds > 0, "{fresh_seconds}");
            tokio::time::advance(Duration::from_secs(10)).await;
            assert!(!token.is_fresh(), "{fresh_seconds}");
        }
    }
}
