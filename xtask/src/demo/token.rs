//! What is said of a token: its claims, never the token.

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

/// The claims that the demo shows.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) aud: String,
    sub: String,
    email: Option<String>,
    iat: i64,
    exp: i64,
}

impl Claims {
    /// Reads the claims of the token in a binding's Secret.
    pub(super) fn in_secret(secret: &Secret) -> anyhow::Result<Self> {
        let data = secret.data.as_ref().and_then(|data| data.get("id_token"));
        let ByteString(token) = data.context("no key id_token in the Secret")?;
        Self::of(token)
    }

    /// Reads the claims of a token. An error never quotes it.
    pub(super) fn of(token: &[u8]) -> anyhow::Result<Self> {
        let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
        let [_, payload, _] = parts.as_slice() else {
            anyhow::bail!("not a JWT: it has {} parts, not 3", parts.len());
        };
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok().context("its payload is not base64url")?;
        serde_json::from_slice(&payload).ok().context("its payload lacks iss, aud, sub, iat or exp")
    }

    /// `email`, or `sub` where there is none.
    pub(super) fn identity(&self) -> &str {
        self.email.as_ref().unwrap_or(&self.sub)
    }

    pub(super) fn issued(&self) -> Timestamp {
        Timestamp::from_second(self.iat).unwrap_or(Timestamp::MIN)
    }

    pub(super) fn expires(&self) -> Timestamp {
        Timestamp::from_second(self.exp).unwrap_or(Timestamp::MIN)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn claims_are_read_and_refusals_do_not_quote() {
        let payload = r#"{"iss":"i","aud":"a","email":"e","iat":1767225600,"exp":1767229200,"sub":"1"}"#;
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let claims = Claims::of(token.as_bytes()).unwrap();
        assert_eq!((claims.iss.as_str(), claims.aud.as_str(), claims.identity()), ("i", "a", "e"));
        let signed = r#"{"iss":"i","aud":"a","iat":1,"exp":2,"sub":"1"}"#;
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(signed));
        assert_eq!(Claims::of(token.as_bytes()).unwrap().identity(), "1");
        assert_eq!(claims.expires().to_string(), "2026-01-01T01:00:00Z");
        assert_eq!(claims.issued().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Claims::of(b"word").unwrap_err().to_string(), "not a JWT: it has 1 parts, not 3");
        let poor = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode("{}"));
        assert_eq!(
            Claims::of(poor.as_bytes()).unwrap_err().to_string(),
            "its payload lacks iss, aud, sub, iat or exp"
        );
    }
}
