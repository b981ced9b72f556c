//! Identity Platform's tokens and those that service accounts sign for themselves, each by the keys of its own issuer.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use xtask::google::{PasswordUser, Role};

use super::*;

const USER: &str = "batch@example.com";
const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";
const OTHER: &str = "other@demo-project.iam.gserviceaccount.com";

async fn start() -> Bench {
    let operator = format!("serviceAccount:{OPERATOR}");
    let options = Options::default()
        .api_key("key")
        .password_user(PasswordUser::new(USER, "password"))
        .service_account(ROBOT)
        .service_account(OTHER)
        .allow(&operator, Role::TokenCreator, ROBOT)
        .allow(&operator, Role::TokenCreator, OTHER);
    Bench { google: Google::start(options).await.unwrap(), http: Http::new().unwrap() }
}

impl Bench {
    fn jwks(&self) -> Jwks {
        let urls = KeyUrls {
            google: self.google.jwks_url().parse().unwrap(),
            identity_platform: self.google.secure_token_jwks_url().parse().unwrap(),
            service_account: self.google.service_account_jwks_url_template(),
        };
        Jwks::new(self.http.clone(), urls)
    }

    async fn answer(&self, request: Request) -> Value {
        let reply = self.http.call(request).await.unwrap();
        assert_eq!(reply.status, 200);
        serde_json::from_slice(&reply.body).unwrap()
    }

    async fn signed_in(&self) -> String {
        let origin = self.google.identity_toolkit_url();
        let url = format!("{origin}/v1/accounts:signInWithPassword?key=key").parse().unwrap();
        let body = json!({"email": USER, "password": "password", "returnSecureToken": true});
        let answer = self.answer(Request::post_json(url, &body)).await;
        answer["idToken"].as_str().unwrap().to_owned()
    }

    /// `claims` as `signer` signs them.
    async fn signed_by(&self, signer: &str, claims: &Value) -> String {
        let path = "/computeMetadata/v1/instance/service-accounts/default/token";
        let url = format!("{}{path}", self.google.metadata_url()).parse().unwrap();
        let flavor = HeaderName::from_static("metadata-flavor");
        let request = Request::get(url).header(flavor, HeaderValue::from_static("Google"));
        let access = self.answer(request).await["access_token"].as_str().unwrap().to_owned();
        let origin = self.google.iam_credentials_url();
        let url = format!("{origin}/v1/projects/-/serviceAccounts/{signer}:signJwt").parse().unwrap();
        let body = json!({"payload": claims.to_string()});
        let answer = self.answer(Request::post_json(url, &body).bearer(&access).unwrap()).await;
        answer["signedJwt"].as_str().unwrap().to_owned()
    }
}

fn user() -> Expectation<'static> {
    Expectation {
        issuer: Issuer::IdentityPlatform("demo-project"),
        audience: "demo-project",
        identity: Identity::User { email: Some(USER), tenant: None },
    }
}

fn robot() -> Expectation<'static> {
    Expectation {
        issuer: Issuer::ServiceAccount(ROBOT),
        audience: AUDIENCE,
        identity: Identity::Subject(ROBOT),
    }
}

fn of_robot() -> Value {
    let now = now().as_second();
    json!({"iss": ROBOT, "sub": ROBOT, "aud": AUDIENCE, "iat": now, "exp": now + 3600})
}

/// `token` as an emulator would make it.
fn unsigned(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let mut claims = serde_json::from_slice(&payload).unwrap();
    change(&mut claims);
    let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", encoded(&json!({"alg": "none", "typ": "JWT"})), encoded(&claims))
}

#[tokio::test]
async fn each_issuers_tokens_are_checked_by_its_own_keys() {
    let bench = start().await;
    let verifier = Verifier::new(bench.jwks(), true);
    let of_user = bench.signed_in().await;
    let outcome = verifier.verify(&of_user, &user(), now()).await.unwrap();
    assert!(outcome.signature_checked);
    assert_eq!(outcome.verified.identity, USER);
    let of_robot = bench.signed_by(ROBOT, &of_robot()).await;
    let outcome = verifier.verify(&of_robot, &robot(), now()).await.unwrap();
    assert!(outcome.signature_checked);
    assert_eq!((outcome.verified.issuer.as_str(), outcome.verified.identity.as_str()), (ROBOT, ROBOT));
    let of_google = Verifier::new(
        Jwks::new(
            bench.http.clone(),
            KeyUrls {
                google: bench.google.jwks_url().parse().unwrap(),
                identity_platform: bench.google.jwks_url().parse().unwrap(),
                service_account: bench.google.jwks_url(),
            },
        ),
        true,
    );
    for (token, expected) in [(&of_user, user()), (&of_robot, robot())] {
        let rejected = of_google.verify(token, &expected, now()).await.unwrap_err();
        assert_eq!(rejected, Rejected::UnknownKey, "Google's own keys sign neither");
    }
}

#[tokio::test]
async fn what_another_account_signs_in_its_name_is_rejected() {
    let bench = start().await;
    let verifier = Verifier::new(bench.jwks(), true);
    bench.signed_by(ROBOT, &of_robot()).await; // so that the robot has a key
    let forged = bench.signed_by(OTHER, &of_robot()).await;
    assert_eq!(verifier.verify(&forged, &robot(), now()).await.unwrap_err(), Rejected::UnknownKey);
    let mut claims = of_robot();
    claims["sub"] = json!(OTHER);
    let other = bench.signed_by(ROBOT, &claims).await;
    let rejected = verifier.verify(&other, &robot(), now()).await.unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "the token's sub is \"other@demo-project.iam.gserviceaccount.com\", expected \"robot@demo-project.iam.gserviceaccount.com\""
    );
}

#[tokio::test]
async fn what_nobody_signed_is_taken_of_an_emulator_alone() {
    let bench = start().await;
    let token = bench.signed_in().await;
    let as_emulated = unsigned(&token, |_| {});
    let strict = Verifier::new(bench.jwks(), false);
    let rejected = strict.verify(&as_emulated, &user(), now()).await.unwrap_err();
    assert_eq!(rejected, Rejected::Algorithm);
    let verifier = Verifier::unsigned(bench.jwks());
    let outcome = verifier.verify(&as_emulated, &user(), now()).await.unwrap();
    assert!(!outcome.signature_checked);
    assert_eq!(outcome.verified.identity, USER);
    let changed = unsigned(&token, |claims| claims["aud"] = json!("other"));
    let rejected = verifier.verify(&changed, &user(), now()).await.unwrap_err();
    assert_eq!(rejected.to_string(), "the token's audience is \"other\", expected \"demo-project\"");
    // What is signed is checked as ever, and no other issuer's tokens go unsigned.
    assert!(verifier.verify(&token, &user(), now()).await.unwrap().signature_checked);
    let (rest, _) = token.rsplit_once('.').unwrap();
    for forged in [format!("{rest}."), format!("{rest}.c2ln"), format!("{as_emulated}c2ln")] {
        assert!(verifier.verify(&forged, &user(), now()).await.is_err());
    }
    let of_google = unsigned(&bench.token().await, |_| {});
    let rejected = verifier.verify(&of_google, &expected(), now()).await.unwrap_err();
    assert_eq!(rejected, Rejected::Algorithm);
    let of_robot = unsigned(&bench.signed_by(ROBOT, &of_robot()).await, |_| {});
    assert_eq!(verifier.verify(&of_robot, &robot(), now()).await.unwrap_err(), Rejected::Algorithm);
}
