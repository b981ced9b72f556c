//! Google's ID tokens and access tokens, whole or spoilt by a fault.

use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fault::{Endpoint, Fault};
use super::identity_platform::PasswordUser;
use super::keys::{KeyRing, SigningKey, unsigned};
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

/// What an ID token of Identity Platform is to say.
pub(super) struct UserTokenRequest<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) user: &'a PasswordUser,
    /// When the user signed in.
    pub(super) auth_time: Timestamp,
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
        let (issued, expires) = self.id_token_life(request.audience);
        let claims = claims(&self.options.issuer, request, issued, expires);
        (self.mint(&self.keys, request.endpoint, claims, fault), expires)
    }

    /// Signs an ID token of Identity Platform; gives it with its real end.
    pub(super) fn mint_user_token(
        &self,
        request: &UserTokenRequest<'_>,
        fault: Option<&Fault>,
    ) -> (String, Timestamp) {
        let project = &self.options.identity_project;
        let (issued, expires) = self.id_token_life(project);
        let claims = user_claims(project, request, issued, expires);
        (self.mint(self.secure_token_keys(), request.endpoint, claims, fault), expires)
    }

    fn id_token_life(&self, audience: &str) -> (Timestamp, Timestamp) {
        let issued = self.now();
        let own = lock(&self.lifetimes).get(audience).copied();
        (issued, issued + signed(own.unwrap_or_else(|| self.settings().id_token_lifetime)))
    }

    /// Signs the claims, spoilt as the fault wants it, and notes the token.
    fn mint(
        &self,
        keys: &Mutex<KeyRing>,
        endpoint: Endpoint,
        mut claims: Value,
        fault: Option<&Fault>,
    ) -> String {
        if let Some(fault) = fault {
            spoil_claims(&mut claims, fault);
        }
        let token = self.sign(keys, &claims, fault);
        self.log.minted(endpoint);
        self.log.issued(&token);
        token
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

    fn sign(&self, keys: &Mutex<KeyRing>, claims: &Value, fault: Option<&Fault>) -> String {
        let mut keys = lock(keys);
        match fault {
            Some(Fault::UnknownKey) => keys.unpublished(self.now()).sign(claims),
            _ => sign_spoilt(keys.signing(), claims, fault),
        }
    }
}

/// The claims signed by the key, or as badly as the fault wants it.
pub(super) fn sign_spoilt(key: &SigningKey, claims: &Value, fault: Option<&Fault>) -> String {
    match fault {
        Some(Fault::BadSignature) => break_signature(&key.sign(claims)),
        Some(Fault::AlgNone) => format!("{}.", unsigned(&json!({ "alg": "none", "typ": "JWT" }), claims)),
        _ => key.sign(claims),
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

fn user_claims(
    project: &str,
    request: &UserTokenRequest<'_>,
    issued: Timestamp,
    expires: Timestamp,
) -> Value {
    let user = request.user;
    let mut claims = json!({
        "iss": format!("{SECURE_TOKEN_ISSUER}{project}"),
        "aud": project,
        "auth_time": request.auth_time.as_second(),
        "user_id": user.local_id,
        "sub": user.local_id,
        "iat": issued.as_second(),
        "exp": expires.as_second(),
        "email": user.email,
        "email_verified": user.email_verified,
        "firebase": { "identities": { "email": [user.email] }, "sign_in_provider": "password" },
    });
    if let Some(tenant) = &user.tenant {
        claims["firebase"]["tenant"] = json!(tenant);
    }
    claims
}

/// Changes the claims as the fault wants it.
pub(super) fn spoil_claims(claims: &mut Value, fault: &Fault) {
    let seconds = |name: &str| claims[name].as_i64().unwrap_or_default();
    let (issued, expires) = (seconds("iat"), seconds("exp"));
    match fault {
        Fault::WrongAudience => claims["aud"] = json!("https://wrong-audience.example.com"),
        Fault::WrongIssuer => claims["iss"] = json!("https://wrong-issuer.example.com"),
        Fault::WrongSubject => claims["sub"] = json!("somebody-else"),
        Fault::WrongEmail => claims["email"] = json!("somebody-else@other-project.iam.gserviceaccount.com"),
        Fault::UnverifiedEmail => claims["email_verified"] = json!(false),
        Fault::ExpiredToken => {
            let end = issued - EXPIRED_SINCE.as_secs();
            claims["iat"] = json!(end - (expires - issued));
            claims["exp"] = json!(end);
        }
        Fault::FutureIat => {
            claims["iat"] = json!(issued + AHEAD.as_secs());
            claims["exp"] = json!(expires + AHEAD.as_secs());
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

/// Before the project's ID, the issuer of Identity Platform's tokens.
const SECURE_TOKEN_ISSUER: &str = "https://securetoken.google.com/";

/// Beyond any tolerated skew of clocks.
const EXPIRED_SINCE: SignedDuration = SignedDuration::from_mins(10);

const AHEAD: SignedDuration = SignedDuration::from_hours(1);
