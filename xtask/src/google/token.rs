//! Google's ID tokens and access tokens, whole or spoilt by a fault.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fault::{Endpoint, Fault};
use super::keys::unsigned;
use super::policy::Identity;
use super::state::{Simulator, lock, unique_id};

/// What an ID token is to say.
pub(super) struct IdTokenRequest<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) audience: &'a str,
    /// The account it is about.
    pub(super) email: &'a str,
    pub(super) include_email: bool,
    /// `azp`, where it is not the account's unique ID.
    pub(super) authorized_party: Option<&'a str>,
    /// The claim `google`, for tokens that describe a VM.
    pub(super) google: Option<Value>,
}

/// An access token's holder and limits.
#[derive(Clone, Debug)]
pub(super) struct AccessToken {
    pub(super) identity: Identity,
    pub(super) scopes: Vec<String>,
    pub(super) expires: Timestamp,
}

impl Simulator {
    /// Signs an ID token; gives it with its real end.
    pub(super) fn mint_id_token(
        &self,
        request: &IdTokenRequest<'_>,
        fault: Option<&Fault>,
    ) -> (String, Timestamp) {
        let issued = self.now();
        let own = lock(&self.lifetimes).get(request.audience).copied();
        let expires = issued + signed(own.unwrap_or_else(|| self.settings().id_token_lifetime));
        let mut claims = claims(&self.options.issuer, request, issued, expires);
        if let Some(fault) = fault {
            spoil_claims(&mut claims, fault, issued, expires);
        }
        let token = self.sign(&claims, fault);
        self.log.minted(request.endpoint);
        self.log.issued(&token);
        (token, expires)
    }

    /// Issues an access token; gives it with the end that the answer is to name.
    pub(super) fn mint_access_token(
        &self,
        identity: Identity,
        scopes: Vec<String>,
        lifetime: Duration,
        fault: Option<&Fault>,
    ) -> (String, Timestamp) {
        let now = self.now();
        let expires = now + signed(lifetime);
        // The answer names the promised end; the token is refused from the start.
        let real_end = if fault == Some(&Fault::ExpiredToken) { now - EXPIRED_SINCE } else { expires };
        let token = format!("ya29.c.{}", random_text());
        lock(&self.access_tokens).insert(token.clone(), AccessToken { identity, scopes, expires: real_end });
        self.log.issued(&token);
        (token, expires)
    }

    fn sign(&self, claims: &Value, fault: Option<&Fault>) -> String {
        let mut keys = lock(&self.keys);
        match fault {
            Some(Fault::UnknownKey) => keys.unpublished(self.now()).sign(claims),
            Some(Fault::BadSignature) => break_signature(&keys.signing().sign(claims)),
            Some(Fault::AlgNone) => format!("{}.", unsigned(&json!({ "alg": "none", "typ": "JWT" }), claims)),
            _ => keys.signing().sign(claims),
        }
    }
}

/// A random text that is good in a header and in a URL.
pub(super) fn random_text() -> String {
    let mut bytes = [0; 48];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    BASE64URL.encode(bytes)
}

/// Seconds from `now` to `end`, the last one begun counted whole, never below zero: a fresh token has its full life.
pub(super) fn seconds_until(end: Timestamp, now: Timestamp) -> i64 {
    let left = end.duration_since(now);
    (left.as_secs() + i64::from(left.subsec_nanos() > 0)).max(0)
}

/// The same span in the type that timestamps add.
pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::from_hours(24 * 365))
}

fn claims(signer: &str, request: &IdTokenRequest<'_>, issued: Timestamp, expires: Timestamp) -> Value {
    let subject = unique_id(request.email);
    let mut claims = json!({
        "iss": signer,
        "aud": request.audience,
        "azp": request.authorized_party.unwrap_or(&subject),
        "sub": subject,
        "iat": issued.as_second(),
        "exp": expires.as_second(),
    });
    if request.include_email {
        claims["email"] = json!(request.email);
        claims["email_verified"] = json!(true);
    }
    if let Some(google) = &request.google {
        claims["google"] = google.clone();
    }
    claims
}

fn spoil_claims(claims: &mut Value, fault: &Fault, issued: Timestamp, expires: Timestamp) {
    match fault {
        Fault::WrongAudience => claims["aud"] = json!("https://wrong-audience.example.com"),
        Fault::WrongIssuer => claims["iss"] = json!("https://wrong-issuer.example.com"),
        Fault::WrongEmail => claims["email"] = json!("somebody-else@other-project.iam.gserviceaccount.com"),
        Fault::UnverifiedEmail => claims["email_verified"] = json!(false),
        Fault::ExpiredToken => {
            let end = issued - EXPIRED_SINCE;
            claims["iat"] = json!((end - expires.duration_since(issued)).as_second());
            claims["exp"] = json!(end.as_second());
        }
        Fault::FutureIat => {
            claims["iat"] = json!((issued + AHEAD).as_second());
            claims["exp"] = json!((expires + AHEAD).as_second());
        }
        _ => {}
    }
}

/// The token with one bit of its signature turned.
fn break_signature(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let mut bytes = BASE64URL.decode(signature).unwrap_or_default();
    if let Some(middle) = bytes.get_mut(100) {
        *middle ^= 1;
    }
    format!("{message}.{}", BASE64URL.encode(bytes))
}

/// Beyond any tolerated skew of clocks.
const EXPIRED_SINCE: SignedDuration = SignedDuration::from_mins(10);

const AHEAD: SignedDuration = SignedDuration::from_hours(1);
