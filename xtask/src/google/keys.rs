//! RSA keys, their certificates, and RS256 signatures.

use std::fmt::Write as _;

use anyhow::Context as _;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use aws_lc_rs::{digest, rand::SystemRandom};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A 2048-bit RSA key with its self-signed certificate.
pub struct SigningKey {
    kid: String,
    pair: KeyPair,
    certificate: String,
    private_pem: String,
}

impl SigningKey {
    /// Makes a key whose certificate is for `common_name` and valid for a month around `now`.
    pub fn generate(common_name: &str, now: Timestamp) -> anyhow::Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).context("generating an RSA key")?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().context("exporting an RSA key")?;
        let certified = rcgen::KeyPair::try_from(pkcs8.as_ref()).context("reading the RSA key back")?;
        let certificate =
            certificate(common_name, now)?.self_signed(&certified).context("signing a certificate")?.pem();
        let kid = hex(&digest::digest(&digest::SHA256, pair.public_key().as_ref()).as_ref()[..KID_BYTES]);
        Ok(Self { kid, pair, certificate, private_pem: certified.serialize_pem() })
    }

    /// 40 hexadecimal digits.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// The private key in PKCS#8 PEM.
    pub(super) fn private_pem(&self) -> &str {
        &self.private_pem
    }

    /// The public key as one entry of a JWKS.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid,
            "n": BASE64URL.encode(public.modulus().big_endian_without_leading_zero()),
            "e": BASE64URL.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// A compact RS256 JWT of the claims.
    ///
    /// # Panics
    /// Never: a key of 2048 bits can sign.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "kid": self.kid, "typ": "JWT" });
        let message = unsigned(&header, claims);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .expect("a fresh 2048-bit key signs");
        format!("{message}.{}", BASE64URL.encode(signature))
    }
}

/// Google's keys: the published ones, of which the newest signs, and one that is never published.
pub(super) struct KeyRing {
    published: Vec<SigningKey>,
    unpublished: Option<SigningKey>,
}

impl KeyRing {
    /// A ring of one key.
    pub(super) fn new(first: SigningKey) -> Self {
        Self { published: vec![first], unpublished: None }
    }

    /// The key that signs from now on.
    pub(super) fn rotate(&mut self, key: SigningKey) {
        self.published.push(key);
    }

    /// Leaves only the newest key published.
    pub(super) fn retire_old(&mut self) {
        let old = self.published.len().saturating_sub(1);
        self.published.drain(..old);
    }

    /// The newest published key.
    pub(super) fn signing(&self) -> &SigningKey {
        self.published.last().expect("a ring is never empty")
    }

    /// A key that no verifier can find; made when first asked for, since few tests need it.
    pub(super) fn unpublished(&mut self, now: Timestamp) -> &SigningKey {
        self.unpublished.get_or_insert_with(|| {
            SigningKey::generate(GOOGLE_COMMON_NAME, now).expect("a second key is made like the first")
        })
    }

    /// The published keys, newest first, as Google lists them.
    pub(super) fn published(&self) -> impl Iterator<Item = &SigningKey> {
        self.published.iter().rev()
    }
}

/// `{"keys": […]}` of the given keys.
pub(super) fn jwks<'a>(keys: impl Iterator<Item = &'a SigningKey>) -> Value {
    json!({ "keys": keys.map(SigningKey::jwk).collect::<Vec<_>>() })
}

/// `{kid: PEM certificate, …}` of the given keys.
pub(super) fn certificates<'a>(keys: impl Iterator<Item = &'a SigningKey>) -> Value {
    keys.map(|key| (key.kid.clone(), json!(key.certificate))).collect::<Map<_, _>>().into()
}

/// The first two parts of a JWT.
pub(super) fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()))
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn certificate(common_name: &str, now: Timestamp) -> anyhow::Result<rcgen::CertificateParams> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    let day = 86_400;
    params.not_before = time::OffsetDateTime::from_unix_timestamp(now.as_second() - day)?;
    params.not_after = time::OffsetDateTime::from_unix_timestamp(now.as_second() + 30 * day)?;
    Ok(params)
}

/// Common name of the certificates of Google's ID token keys.
pub(super) const GOOGLE_COMMON_NAME: &str = "federated-signon.system.gserviceaccount.com";

/// Common name of the certificates of Identity Platform's ID token keys.
pub(super) const SECURE_TOKEN_COMMON_NAME: &str = "securetoken.system.gserviceaccount.com";

const KID_BYTES: usize = 20;
