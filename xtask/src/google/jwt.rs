//! JWTs that clients send: Kubernetes tokens and service account assertions.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use serde_json::Value;

/// A JWT taken apart, not yet verified.
pub(super) struct Jwt<'a> {
    pub(super) header: Value,
    pub(super) claims: Value,
    message: &'a str,
    signature: Vec<u8>,
}

/// Why a signature does not hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No key of that kid that could have signed.
    NoKey,
    /// The key says no.
    Signature,
}

impl<'a> Jwt<'a> {
    /// Takes a compact JWT apart.
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let object = |part: &str| {
            let value: Value = serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()?;
            value.is_object().then_some(value)
        };
        let signature = BASE64URL.decode(signature).ok()?;
        Some(Self { header: object(header)?, claims: object(claims)?, message, signature })
    }

    /// A header field or claim that is a string.
    pub(super) fn text<'v>(object: &'v Value, name: &str) -> Option<&'v str> {
        object.get(name)?.as_str()
    }

    /// A claim that is a number of seconds.
    pub(super) fn seconds(&self, claim: &str) -> Option<i64> {
        self.claims.get(claim)?.as_i64()
    }

    /// `aud`, one or several.
    pub(super) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Verifies the signature by the JWKS.
    pub(super) fn verify(&self, jwks: &Value) -> Result<(), Refused> {
        let kid = Self::text(&self.header, "kid");
        let keys = jwks.get("keys").and_then(Value::as_array).ok_or(Refused::NoKey)?;
        let key =
            keys.iter().find(|key| kid.is_some() && Self::text(key, "kid") == kid).ok_or(Refused::NoKey)?;
        match (Self::text(&self.header, "alg"), Self::text(key, "kty")) {
            (Some("RS256"), Some("RSA")) => self.verify_rsa(key),
            (Some("ES256"), Some("EC")) => self.verify_p256(key),
            _ => Err(Refused::NoKey),
        }
    }

    fn verify_rsa(&self, key: &Value) -> Result<(), Refused> {
        let public = RsaPublicKeyComponents { n: number(key, "n")?, e: number(key, "e")? };
        public
            .verify(&RSA_PKCS1_2048_8192_SHA256, self.message.as_bytes(), &self.signature)
            .map_err(|_| Refused::Signature)
    }

    fn verify_p256(&self, key: &Value) -> Result<(), Refused> {
        let point = [vec![UNCOMPRESSED], number(key, "x")?, number(key, "y")?].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(self.message.as_bytes(), &self.signature)
            .map_err(|_| Refused::Signature)
    }
}

fn number(key: &Value, name: &str) -> Result<Vec<u8>, Refused> {
    let text = Jwt::text(key, name).ok_or(Refused::NoKey)?;
    BASE64URL.decode(text).map_err(|_| Refused::NoKey)
}

/// The first byte of a point that gives both coordinates.
const UNCOMPRESSED: u8 = 4;
