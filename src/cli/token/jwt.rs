//! A JWT taken apart leniently, to be shown: any algorithm, any claims. Whether it is any good is decided later.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};

use crate::{
    plan::source::ServiceAccountEmail,
    verify::{
        claims::MAX_TOKEN_BYTES,
        expect::Issuer,
        jwks::{Jwks, KeyLookup},
    },
};

/// A JWT in its parts. Printing them prints no token: the signature is kept apart.
pub struct Jwt {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    signing_input: String,
    /// `None`: it is not base64url.
    signature: Option<Vec<u8>>,
}

/// What is known of the signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// It is the issuer's.
    Good,
    /// It is not the issuer's, because …
    Wrong(String),
    /// It could not be told, because …
    Unchecked(String),
}

impl Jwt {
    /// Takes the text of a token apart: blanks around it, `Bearer` before it, and the base64 of a Secret's data are tolerated.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bare = bare(text);
        let decoded = if bare.contains('.') { None } else { encoded(bare) };
        let token = decoded.as_deref().map_or(bare, self::bare);
        if token.is_empty() {
            return Err("it is empty");
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err("it is larger than 16 KB");
        }
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            return Err("it has no three parts with dots between them");
        };
        Ok(Self {
            header: object(header).ok_or("its header is no JSON object in base64url")?,
            claims: object(claims).ok_or("its payload is no JSON object in base64url")?,
            signing_input: format!("{header}.{claims}"),
            signature: BASE64_URL_SAFE_NO_PAD.decode(signature).ok(),
        })
    }

    /// Who must have signed it, where it names an issuer that is known.
    fn issuer(&self) -> Result<Issuer<'_>, String> {
        let iss = self.text("iss").ok_or("it names no issuer (iss)")?;
        let project = iss.strip_prefix("https://securetoken.google.com/");
        if Issuer::Google.is(iss) {
            Ok(Issuer::Google)
        } else if let Some(project) = project.filter(|project| !project.is_empty()) {
            Ok(Issuer::IdentityPlatform(project))
        } else if ServiceAccountEmail::parse(iss).is_ok() {
            Ok(Issuer::ServiceAccount(iss))
        } else {
            Err("unknown issuer: known are Google, Identity Platform and service accounts".to_owned())
        }
    }

    /// Compares the signature with the issuer's published keys.
    pub(super) async fn signature(&self, jwks: &Jwks) -> Signature {
        let issuer = match self.issuer() {
            Ok(issuer) => issuer,
            Err(why) => return Signature::Unchecked(why),
        };
        let wrong = |why: &str| Signature::Wrong(why.to_owned());
        if self.header.get("alg").is_none_or(|alg| alg != "RS256") {
            return wrong("this issuer signs with RS256, and the token's algorithm is another");
        }
        if self.header.contains_key("crit") {
            return wrong("its header demands extensions (crit) that nobody here knows");
        }
        let Some(kid) = self.header.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty()) else {
            return wrong("it names no key (kid)");
        };
        let Some(signature) = &self.signature else { return wrong("it is not base64url") };
        match jwks.key(issuer, kid).await {
            KeyLookup::Found(key) if key.verifies(self.signing_input.as_bytes(), signature) => {
                Signature::Good
            }
            KeyLookup::Found(_) => wrong("it does not fit the issuer's key"),
            KeyLookup::UnknownKid => wrong("it is by a key that the issuer does not publish"),
            KeyLookup::Unavailable => Signature::Unchecked("the issuer's keys can't be fetched".to_owned()),
        }
    }

    /// A claim that is a text.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// Every audience that it names.
    pub(super) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// Without blanks and without `Bearer`.
fn bare(text: &str) -> &str {
    let text = text.trim();
    match text.split_at_checked(7) {
        Some((word, rest)) if word.eq_ignore_ascii_case("bearer ") => rest.trim(),
        _ => text,
    }
}

/// What a Secret's data holds before it is decoded.
fn encoded(text: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"alg":"none"}` and `{"iss":"me","aud":["a","b"]}`.
    const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJtZSIsImF1ZCI6WyJhIiwiYiJdfQ.";

    #[test]
    fn blanks_bearer_and_base64_are_taken_off() {
        let in_secret = BASE64_STANDARD.encode(TOKEN);
        for text in [
            TOKEN,
            &format!(" {TOKEN}\n"),
            &format!("Bearer {TOKEN}"),
            &format!("bearer  {TOKEN}\r\n"),
            &in_secret,
        ] {
            let jwt = Jwt::parse(text).unwrap();
            assert_eq!((jwt.text("iss"), jwt.audiences()), (Some("me"), vec!["a", "b"]), "{text}");
        }
    }

    #[test]
    fn what_is_no_jwt_is_refused_without_being_quoted() {
        let table = [
            ("", "it is empty"),
            ("Bearer ", "it has no three parts with dots between them"),
            ("a.b", "it has no three parts with dots between them"),
            ("a.b.c.d", "it has no three parts with dots between them"),
            ("a.b.c", "its header is no JSON object in base64url"),
            ("e30.W10.c", "its payload is no JSON object in base64url"),
            (&"a".repeat(16_385), "it is larger than 16 KB"),
        ];
        for (text, why) in table {
            assert_eq!(Jwt::parse(text).err(), Some(why), "{text:.20}");
        }
    }

    #[test]
    fn only_issuers_whose_keys_are_known_are_asked() {
        let of = |iss: &str| {
            let claims = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!({"iss": iss}).to_string());
            let jwt = Jwt::parse(&format!("e30.{claims}.")).unwrap();
            jwt.issuer().map(|issuer| issuer.to_string())
        };
        assert_eq!(of("accounts.google.com").unwrap(), "https://accounts.google.com");
        assert_eq!(of("https://securetoken.google.com/p").unwrap(), "https://securetoken.google.com/p");
        assert_eq!(of("x@p.iam.gserviceaccount.com").unwrap(), "x@p.iam.gserviceaccount.com");
        for unknown in ["https://evil.com", "https://securetoken.google.com/", "x@evil.com", ""] {
            assert!(of(unknown).is_err(), "{unknown}");
        }
    }
}
