//! A service account's private key, and the JWTs that it signs.

use std::fmt;

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::credential_file::Unusable;
use crate::plan::source::ServiceAccountEmail;

/// The key material of a service account key file.
pub(super) struct Key {
    /// Whose it is.
    pub(super) account: ServiceAccountEmail,
    id: String,
    pair: KeyPair,
}

impl Key {
    /// Of `account`, from an unencrypted RSA key in PKCS#8 PEM, as Google makes them.
    pub(super) fn new(account: ServiceAccountEmail, id: String, pem: &str) -> Result<Self, Unusable> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Unusable::Pem)?;
        let der = Zeroizing::new(der);
        let pair = KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| Unusable::Rsa)?;
        Ok(Self { account, id, pair })
    }

    /// An assertion for the OAuth token endpoint at `audience`, which asks for what `wanted` says.
    pub(super) fn assertion(
        &self,
        audience: &str,
        wanted: (&str, &str),
        now: Timestamp,
    ) -> Result<Zeroizing<String>, Unusable> {
        let (claim, value) = wanted;
        self.sign(now, json!({"aud": audience, claim: value}))
    }

    /// A JWT that stands for an access token, where the OAuth token endpoint is not to be had.
    pub(super) fn self_signed(&self, now: Timestamp) -> Result<Zeroizing<String>, Unusable> {
        self.sign(now, json!({"scope": IAM_SCOPE}))
    }

    fn sign(&self, now: Timestamp, mut claims: Value) -> Result<Zeroizing<String>, Unusable> {
        claims["iss"] = json!(self.account);
        claims["sub"] = json!(self.account);
        claims["iat"] = json!(now.as_second());
        claims["exp"] = json!(now.as_second() + LIFE_SECONDS);
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.id});
        let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encoded(&header), encoded(&claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .map_err(|_| Unusable::Rsa)?;
        Ok(Zeroizing::new(format!("{input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, [redacted])", self.account)
    }
}

/// The longest life that Google takes.
pub(super) const LIFE_SECONDS: i64 = 3600;
const IAM_SCOPE: &str = "https://www.googleapis.com/auth/iam";
