//! Header and claims of an ID token, parsed strictly and checked at a given time. Pure.
//!
//! Sources: RFC 7515 and 7519; OpenID Connect Core 1.0; Google's page on verifying ID tokens.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};

use super::expect::{Expectation, Identity};

/// The largest token that is looked at, in bytes. Google's have about 1 KB.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How far ahead of our clock `iat` and `nbf` may be, in seconds.
pub const MAX_CLOCK_SKEW_SECONDS: i64 = 60;

/// The longest life that is believed, in seconds. Google's ID tokens live one hour.
pub const MAX_LIFETIME_SECONDS: i64 = 24 * 3600;

/// A token taken apart. Nothing of it has been checked but its form and its algorithm.
pub struct Parsed<'t> {
    /// Header and payload as signed.
    pub signing_input: &'t str,
    /// The signature's bytes.
    pub signature: Vec<u8>,
    /// Key id.
    pub kid: String,
    /// The claims.
    pub claims: Claims,
}

/// The claims that are looked at. Absent ones are found by [`check`], so that the message can name them.
#[derive(Debug, Default, Deserialize)]
pub struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audiences>,
    exp: Option<i64>,
    iat: Option<i64>,
    nbf: Option<i64>,
    email: Option<String>,
    email_verified: Option<bool>,
    auth_time: Option<i64>,
    firebase: Option<Firebase>,
}

/// What Identity Platform adds.
#[derive(Debug, Deserialize)]
struct Firebase {
    tenant: Option<String>,
}

/// A token that says what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// `iss`, as written.
    pub issuer: String,
    /// Whom it is for: `email`, or `sub` where the source's tokens have no address.
    pub identity: String,
    /// `iat`.
    pub issued: Timestamp,
    /// `exp`.
    pub expires: Timestamp,
}

/// Why a token is not published. The texts hold claims at most, never the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not three strict base64url parts, too large, or not JSON objects.
    #[error("the answer is not a JWT: {0}")]
    Malformed(&'static str),
    /// Another algorithm than RS256.
    #[error("the token's algorithm is not RS256")]
    Algorithm,
    /// A `crit` header: extensions that must be understood and are not.
    #[error("the token has a crit header")]
    Critical,
    /// No `kid`.
    #[error("the token names no key (kid)")]
    NoKid,
    /// A required claim is absent.
    #[error("the token has no claim {0}")]
    Missing(&'static str),
    /// Another issuer.
    #[error("the token's issuer is {received:?}, expected {expected:?}")]
    Issuer {
        /// As received, shortened.
        received: String,
        /// The first accepted form.
        expected: String,
    },
    /// Another audience, none or several.
    #[error("the token's audience is {received:?}, expected {expected:?}")]
    Audience {
        /// As received, shortened.
        received: String,
        /// As asked for.
        expected: String,
    },
    /// Another identity.
    #[error("the token's email is {received:?}, expected {expected:?}")]
    Email {
        /// As received, shortened.
        received: String,
        /// Whom it was asked for.
        expected: String,
    },
    /// Another signer.
    #[error("the token's sub is {received:?}, expected {expected:?}")]
    Subject {
        /// As received, shortened.
        received: String,
        /// Whom it was asked for.
        expected: String,
    },
    /// Another tenant of Identity Platform.
    #[error("the token's tenant is {received:?}, expected {expected:?}")]
    Tenant {
        /// As received, shortened; `none` where there is none.
        received: String,
        /// As the spec says.
        expected: String,
    },
    /// `email_verified` is not true.
    #[error("the token's email is not verified")]
    EmailUnverified,
    /// `exp` has passed.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// `iat` or `nbf` is in the future.
    #[error("the token's {0} is more than 60 s ahead of the operator's clock")]
    NotYetValid(&'static str),
    /// `exp - iat` is not positive, or more than a day.
    #[error("the token's lifetime of {0} s is not between 1 s and 24 h")]
    Lifetime(i64),
    /// The key is known and the signature is not its own.
    #[error("the token's signature is wrong")]
    Signature,
    /// The issuer publishes no such key.
    #[error("the token is signed by a key that its issuer does not publish")]
    UnknownKey,
    /// The keys can't be had, and `--require-signature` is set.
    #[error("the issuer's keys can't be fetched, and --require-signature is set")]
    KeysUnavailable,
}

impl fmt::Debug for Parsed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parsed([redacted])") // its parts are the token
    }
}

/// Takes `raw` apart.
pub fn parse(raw: &str) -> Result<Parsed<'_>, Rejected> {
    let (signing_input, header, payload, signature) = parts(raw)?;
    if header.alg != "RS256" {
        return Err(Rejected::Algorithm);
    }
    if header.has_crit {
        return Err(Rejected::Critical);
    }
    let kid = header.kid.filter(|k| !k.is_empty() && k.len() <= 256).ok_or(Rejected::NoKid)?;
    Ok(Parsed { signing_input, signature: decode(signature)?, kid, claims: claims(payload)? })
}

/// The claims of a token that says of itself that nobody signed it (`alg: none` and nothing for a signature), as emulators make
/// them; `None`: it is another one.
pub(super) fn parse_unsigned(raw: &str) -> Option<Result<Claims, Rejected>> {
    let (_, header, payload, signature) = parts(raw).ok()?;
    (header.alg == "none" && signature.is_empty() && !header.has_crit).then(|| claims(payload))
}

/// Checks `claims` against what was asked for, at `now`.
pub fn check(claims: &Claims, expected: &Expectation<'_>, now: Timestamp) -> Result<Verified, Rejected> {
    let issuer = claims.iss.as_deref().ok_or(Rejected::Missing("iss"))?;
    let subject = claims.sub.as_deref().filter(|s| !s.is_empty()).ok_or(Rejected::Missing("sub"))?;
    // The audience first: of a token that is for another project, the issuer is another as well.
    check_audience(claims.aud.as_ref().ok_or(Rejected::Missing("aud"))?, expected.audience)?;
    if !expected.issuer.is(issuer) {
        return Err(Rejected::Issuer { received: short(issuer), expected: expected.issuer.to_string() });
    }
    let (issued, expires) = check_times(claims, now)?;
    let identity = check_identity(claims, subject, expected.identity)?;
    Ok(Verified { issuer: issuer.to_owned(), identity, issued, expires })
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, rename = "crit", deserialize_with = "present")]
    has_crit: bool,
}

/// What was or would be signed, the header, and the other parts as they stand.
fn parts(raw: &str) -> Result<(&str, Header, &str, &str), Rejected> {
    if raw.len() > MAX_TOKEN_BYTES {
        return Err(Rejected::Malformed("it is larger than 16 KB"));
    }
    let (signing_input, signature) =
        raw.rsplit_once('.').ok_or(Rejected::Malformed("it has no three parts"))?;
    let (header, payload) =
        signing_input.split_once('.').ok_or(Rejected::Malformed("it has no three parts"))?;
    let header = object(header, "its header is no JSON object of the right types")?;
    Ok((signing_input, header, payload, signature))
}

fn claims(payload: &str) -> Result<Claims, Rejected> {
    object(payload, "its payload is no JSON object with claims of the right types")
}

/// True for a field that is there, whatever its value.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

fn check_audience(received: &Audiences, expected: &str) -> Result<(), Rejected> {
    let one = match received {
        Audiences::One(one) => Some(one.as_str()),
        Audiences::Several(list) => list.first().map(String::as_str).filter(|_| list.len() == 1),
    };
    if one == Some(expected) {
        return Ok(());
    }
    let received = match received {
        Audiences::One(one) => short(one),
        Audiences::Several(list) => short(&list.join(", ")),
    };
    Err(Rejected::Audience { received, expected: expected.to_owned() })
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(Timestamp, Timestamp), Rejected> {
    let exp = claims.exp.ok_or(Rejected::Missing("exp"))?;
    let iat = claims.iat.ok_or(Rejected::Missing("iat"))?;
    let time =
        |seconds| Timestamp::from_second(seconds).map_err(|_| Rejected::Malformed("a time is out of range"));
    let (expires, issued) = (time(exp)?, time(iat)?);
    let latest = now.as_second() + MAX_CLOCK_SKEW_SECONDS;
    if expires <= now {
        return Err(Rejected::Expired(expires));
    }
    if iat > latest {
        return Err(Rejected::NotYetValid("iat"));
    }
    for (claim, value) in [("nbf", claims.nbf), ("auth_time", claims.auth_time)] {
        if value.is_some_and(|time| time > latest) {
            return Err(Rejected::NotYetValid(claim));
        }
    }
    let life = exp.saturating_sub(iat);
    if !(1..=MAX_LIFETIME_SECONDS).contains(&life) {
        return Err(Rejected::Lifetime(life));
    }
    Ok((issued, expires))
}

/// Gives whom the token is for.
fn check_identity(claims: &Claims, subject: &str, rule: Identity<'_>) -> Result<String, Rejected> {
    let email = claims.email.as_deref().filter(|e| !e.is_empty());
    let other = |received: &str, expected: &str| {
        Err(Rejected::Email { received: short(received), expected: expected.to_owned() })
    };
    match rule {
        Identity::Subject(expected) if subject == expected => return Ok(subject.to_owned()),
        Identity::Subject(expected) => {
            return Err(Rejected::Subject { received: short(subject), expected: expected.to_owned() });
        }
        Identity::User { email: expected, tenant } => {
            check_user(claims, subject, tenant)?;
            return match (email, expected) {
                (Some(received), Some(expected)) if !received.eq_ignore_ascii_case(expected) => {
                    other(received, expected)
                }
                (received, _) => Ok(received.unwrap_or(subject).to_owned()),
            };
        }
        Identity::Email(_) | Identity::AnyEmail => {}
    }
    let email = email.ok_or(Rejected::Missing("email"))?;
    match rule {
        Identity::Email(expected) if email != expected => return other(email, expected),
        _ => {}
    }
    match claims.email_verified {
        Some(true) => Ok(email.to_owned()),
        Some(false) => Err(Rejected::EmailUnverified),
        None => Err(Rejected::Missing("email_verified")),
    }
}

/// Google's rules for tokens of Identity Platform beyond those for all: a `sub` of at most 128 characters, and the tenant.
fn check_user(claims: &Claims, subject: &str, tenant: Option<&str>) -> Result<(), Rejected> {
    if subject.len() > 128 {
        return Err(Rejected::Malformed("its sub is longer than 128 characters"));
    }
    let received = claims.firebase.as_ref().and_then(|f| f.tenant.as_deref());
    if received == tenant {
        return Ok(());
    }
    let text = |tenant: Option<&str>| tenant.map_or_else(|| "none".to_owned(), short);
    Err(Rejected::Tenant { received: text(received), expected: text(tenant) })
}

/// The JSON object in `part`. Derived code would also read a list as the fields in their order.
fn object<T: DeserializeOwned>(part: &str, otherwise: &'static str) -> Result<T, Rejected> {
    let json = decode(part)?;
    let is_object = json.trim_ascii_start().starts_with(b"{");
    let value = is_object.then(|| serde_json::from_slice(&json).ok()).flatten();
    value.ok_or(Rejected::Malformed(otherwise))
}

/// Strict: no padding, no line breaks, no stray bits.
fn decode(part: &str) -> Result<Vec<u8>, Rejected> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed("a part is no strict base64url"))
}

/// At most 200 characters of a claim, for a message.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
