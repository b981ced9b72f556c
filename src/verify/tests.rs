//! The verifier against the simulator's real signatures and every way in which it spoils a token.

mod other_issuers;

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use xtask::google::{Endpoint, Fault, Google, Options};

use super::{
    expect::{Identity, Issuer},
    jwks::KeyUrls,
    *,
};
use crate::token::http::{Http, Request};

const AUDIENCE: &str = "https://orders.example.com";
const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";

struct Bench {
    google: Google,
    http: Http,
}

impl Bench {
    async fn start() -> Self {
        // A token for each request: no fault meets one out of the metadata server's cache.
        let options = Options { metadata_cache_margin: None, ..Options::default() };
        Self { google: Google::start(options).await.unwrap(), http: Http::new().unwrap() }
    }

    fn verifier(&self, require_signature: bool) -> Verifier {
        let urls = KeyUrls {
            google: self.google.jwks_url().parse().unwrap(),
            identity_platform: "http://127.0.0.1:1/".parse().unwrap(),
            service_account: "http://127.0.0.1:1/{email}".to_owned(),
        };
        let jwks = Jwks::new(self.http.clone(), urls);
        Verifier::new(jwks, require_signature)
    }

    async fn token(&self) -> String {
        let path = "/computeMetadata/v1/instance/service-accounts/default/identity?format=full&audience=";
        let url = format!("{}{path}{AUDIENCE}", self.google.metadata_url());
        let flavor = HeaderName::from_static("metadata-flavor");
        let request = Request::get(url.parse().unwrap()).header(flavor, HeaderValue::from_static("Google"));
        let reply = self.http.call(request).await.unwrap();
        assert_eq!(reply.status, 200);
        String::from_utf8(reply.body.to_vec()).unwrap()
    }
}

fn expected() -> Expectation<'static> {
    Expectation { issuer: Issuer::Google, audience: AUDIENCE, identity: Identity::Email(OPERATOR) }
}

fn now() -> Timestamp {
    crate::clock::now()
}

#[tokio::test]
async fn a_good_token_is_accepted_with_its_signature_checked() {
    let bench = Bench::start().await;
    let outcome = bench.verifier(true).verify(&bench.token().await, &expected(), now()).await.unwrap();
    assert!(outcome.signature_checked);
    assert_eq!(outcome.verified.issuer, "https://accounts.google.com");
    assert_eq!(outcome.verified.identity, OPERATOR);
    let life = outcome.verified.expires.duration_since(outcome.verified.issued);
    assert_eq!(life.as_secs(), 3600);
}

#[tokio::test]
async fn every_spoilt_token_is_rejected_for_its_own_reason() {
    let bench = Bench::start().await;
    let verifier = bench.verifier(false);
    let table = [
        (
            Fault::WrongAudience,
            "the token's audience is \"https://wrong-audience.example.com\", expected \"https://orders.example.com\"",
        ),
        (
            Fault::WrongIssuer,
            "the token's issuer is \"https://wrong-issuer.example.com\", expected \"https://accounts.google.com\"",
        ),
        (
            Fault::WrongEmail,
            "the token's email is \"somebody-else@other-project.iam.gserviceaccount.com\", expected \
             \"operator@demo-project.iam.gserviceaccount.com\"",
        ),
        (Fault::UnverifiedEmail, "the token's email is not verified"),
        (Fault::FutureIat, "the token's iat is more than 60 s ahead of the operator's clock"),
        (Fault::AlgNone, "the token's algorithm is not RS256"),
        (Fault::BadSignature, "the token's signature is wrong"),
        (Fault::UnknownKey, "the token is signed by a key that its issuer does not publish"),
        (Fault::Garbage, "the answer is not a JWT: it has no three parts"),
    ];
    for (fault, expected_message) in table {
        bench.google.set_fault(Endpoint::MetadataIdentity, fault.clone());
        let rejected = verifier.verify(&bench.token().await, &expected(), now()).await.unwrap_err();
        assert_eq!(rejected.to_string(), expected_message, "{fault:?}");
    }
    bench.google.set_fault(Endpoint::MetadataIdentity, Fault::ExpiredToken);
    let rejected = verifier.verify(&bench.token().await, &expected(), now()).await.unwrap_err();
    assert!(matches!(rejected, Rejected::Expired(at) if at < now()));
    bench.google.clear_faults();
    assert!(verifier.verify(&bench.token().await, &expected(), now()).await.unwrap().signature_checked);
}

#[tokio::test]
async fn no_byte_of_a_token_can_be_changed() {
    let bench = Bench::start().await;
    let verifier = bench.verifier(true);
    let token = bench.token().await;
    assert!(verifier.verify(&token, &expected(), now()).await.is_ok());
    for position in 0..token.len() {
        let original = token.as_bytes()[position];
        // One bit turned; a letter that base64url has; the letter that parts are told apart by.
        for replacement in [original ^ 1, if original == b'A' { b'B' } else { b'A' }, b'.'] {
            if replacement == original {
                continue;
            }
            let mut changed = token.clone().into_bytes();
            changed[position] = replacement;
            let changed = String::from_utf8(changed).unwrap();
            let outcome = verifier.verify(&changed, &expected(), now()).await;
            assert!(outcome.is_err(), "byte {position} as {:?}", char::from(replacement));
        }
        let shorter = [&token[..position], &token[position + 1..]].concat();
        assert!(verifier.verify(&shorter, &expected(), now()).await.is_err(), "without byte {position}");
    }
    assert_eq!(bench.google.count(Endpoint::Jwks), 1, "kids that nobody has cost no fetch");
}

#[tokio::test]
async fn without_keys_the_claims_count_unless_the_signature_is_required() {
    let bench = Bench::start().await;
    bench.google.set_fault(Endpoint::Jwks, Fault::Unavailable);
    let token = bench.token().await;
    let outcome = bench.verifier(false).verify(&token, &expected(), now()).await.unwrap();
    assert!(!outcome.signature_checked);
    let rejected = bench.verifier(true).verify(&token, &expected(), now()).await.unwrap_err();
    assert_eq!(rejected, Rejected::KeysUnavailable);
    bench.google.set_fault(Endpoint::MetadataIdentity, Fault::WrongAudience);
    let wrong = bench.token().await;
    assert!(bench.verifier(false).verify(&wrong, &expected(), now()).await.is_err());
}

#[tokio::test]
async fn keys_once_had_are_used_while_they_can_not_be_fetched() {
    let bench = Bench::start().await;
    bench.google.set_jwks_max_age(Duration::from_secs(60));
    let verifier = bench.verifier(false);
    let token = bench.token().await;
    assert!(verifier.verify(&token, &expected(), now()).await.unwrap().signature_checked);
    bench.google.set_fault(Endpoint::Jwks, Fault::DropConnection);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(120)).await;
    tokio::time::resume();
    assert!(verifier.verify(&token, &expected(), now()).await.unwrap().signature_checked);
    bench.google.set_fault(Endpoint::MetadataIdentity, Fault::BadSignature);
    let forged = bench.token().await;
    let rejected = verifier.verify(&forged, &expected(), now()).await.unwrap_err();
    assert_eq!(rejected, Rejected::Signature);
}

#[tokio::test]
async fn tokens_of_a_rotated_key_are_accepted_within_a_minute() {
    let bench = Bench::start().await;
    let verifier = bench.verifier(true);
    let old = bench.token().await;
    assert!(verifier.verify(&old, &expected(), now()).await.is_ok());
    bench.google.rotate_keys().unwrap();
    let new = bench.token().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    assert!(verifier.verify(&new, &expected(), now()).await.is_ok());
    assert!(verifier.verify(&old, &expected(), now()).await.is_ok());
}

#[tokio::test]
async fn rejections_never_hold_the_token() {
    let bench = Bench::start().await;
    let verifier = bench.verifier(false);
    for fault in [Fault::WrongAudience, Fault::BadSignature, Fault::AlgNone, Fault::UnknownKey] {
        bench.google.set_fault(Endpoint::MetadataIdentity, fault);
        let rejected = verifier.verify(&bench.token().await, &expected(), now()).await.unwrap_err();
        let texts = format!("{rejected} {rejected:?}");
        let tokens = bench.google.issued_tokens();
        assert!(!tokens.is_empty());
        for part in tokens.iter().flat_map(|t| t.split('.')).filter(|p| p.len() > 8) {
            assert!(!texts.contains(part));
        }
    }
}
