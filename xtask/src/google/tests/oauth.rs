use std::time::Duration;

use super::super::keys::SigningKey;
use super::super::{Endpoint, Role, User};
use super::*;

const CLIENT_ID: &str = "764086051850-demo.apps.googleusercontent.com";
const KEY_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A service account's key file as its owner uses it.
struct KeyFile(Value);

impl KeyFile {
    async fn create() -> (Google, Self) {
        let google = Google::start(Options::default()).await.unwrap();
        let file = google.create_service_account_key(CALLER).unwrap();
        (google, Self(serde_json::from_str(&file).unwrap()))
    }

    /// Signs as client libraries do, from nothing but the file.
    fn sign(&self, claims: &Value) -> String {
        let pem = self.0["private_key"].as_str().unwrap();
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::prelude::BASE64_STANDARD.decode(base64).unwrap();
        let pair = aws_lc_rs::rsa::KeyPair::from_pkcs8(&der).unwrap();
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.0["private_key_id"] });
        let message =
            format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
        let mut signature = vec![0; 256];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)
            .unwrap();
        format!("{message}.{}", BASE64URL.encode(signature))
    }

    fn claims(&self) -> Value {
        let now = crate::clock::now().as_second();
        json!({ "iss": CALLER, "aud": self.0["token_uri"], "iat": now, "exp": now + 3600, "target_audience": AUDIENCE })
    }
}

async fn exchange(google: &Google, assertion: &str) -> Answer {
    post_form(&google.oauth_token_url(), &[("grant_type", KEY_GRANT), ("assertion", assertion)]).await
}

#[tokio::test]
async fn a_key_file_has_googles_fields() {
    let (google, KeyFile(file)) = KeyFile::create().await;
    let names: Vec<_> = file.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "type",
        "project_id",
        "private_key_id",
        "private_key",
        "client_email",
        "client_id",
        "auth_uri",
        "token_uri",
        "auth_provider_x509_cert_url",
        "client_x509_cert_url",
        "universe_domain",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(file["type"], "service_account");
    assert_eq!(file["client_email"], "caller@demo-project.iam.gserviceaccount.com");
    assert_eq!(file["client_id"], google.unique_id(CALLER).as_str());
    assert_eq!(file["token_uri"], google.oauth_token_url().as_str());
    assert!(file["private_key"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let certificates = get(file["client_x509_cert_url"].as_str().unwrap()).await.json();
    assert!(certificates.get(file["private_key_id"].as_str().unwrap()).is_some());
}

#[tokio::test]
async fn an_assertion_with_a_target_audience_gives_an_id_token() {
    let (google, key) = KeyFile::create().await;
    let answer = exchange(&google, &key.sign(&key.claims())).await;
    assert_eq!(answer.status, 200);
    let token = answer.text("id_token");
    assert_eq!(answer.json().as_object().unwrap().len(), 1);
    assert!(verifies(&token, &jwks(&google).await));
    assert_eq!(
        claims_without_times(&token, 3600),
        json!({
            "iss": "https://accounts.google.com",
            "aud": "https://orders-abc-uc.a.run.app",
            "azp": google.unique_id(CALLER),
            "sub": google.unique_id(CALLER),
            "email": "caller@demo-project.iam.gserviceaccount.com",
            "email_verified": true,
        })
    );
    assert_eq!(google.requests()[0].audience.as_deref(), Some("https://orders-abc-uc.a.run.app"));
    assert_eq!(google.minted(Endpoint::OauthToken), 1);
}

#[tokio::test]
async fn an_assertion_with_a_scope_gives_an_access_token() {
    let (google, key) = KeyFile::create().await;
    let mut claims = key.claims();
    claims["scope"] = json!("https://www.googleapis.com/auth/cloud-platform");
    let both = exchange(&google, &key.sign(&claims)).await;
    assert_eq!((both.status, both.text("error").as_str()), (400, "invalid_scope"));
    claims.as_object_mut().unwrap().remove("target_audience");
    let answer = exchange(&google, &key.sign(&claims)).await.json();
    assert_eq!((answer["token_type"].as_str(), answer["expires_in"].as_i64()), (Some("Bearer"), Some(3600)));
    let bearer = answer["access_token"].as_str().unwrap();
    let used =
        call_iam(&google, bearer, &format!("{CALLER}:generateIdToken"), json!({ "audience": "a" })).await;
    assert_eq!(used.status, 403); // known, but without a role
}

#[tokio::test]
async fn bad_assertions_are_refused_in_googles_words() {
    let (google, key) = KeyFile::create().await;
    let now = crate::clock::now().as_second();
    let with = |name: &str, value: Value| {
        let mut claims = key.claims();
        claims[name] = value;
        key.sign(&claims)
    };
    let short = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
    let stranger = SigningKey::generate("stranger", crate::clock::now()).unwrap();
    let cases = [
        (stranger.sign(&key.claims()), "invalid_grant", "Invalid JWT Signature."),
        (with("iss", json!("nobody@example.com")), "invalid_grant", "Invalid grant: account not found"),
        (with("aud", json!("https://example.com")), "invalid_grant", "Invalid JWT: Failed audience check."),
        (with("exp", json!(now + 7200)), "invalid_grant", short),
        (with("exp", json!(now - 3600)), "invalid_grant", short),
        (with("iat", json!(now + 3000)), "invalid_grant", short),
        (
            with("target_audience", json!("")),
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        ),
        ("rubbish".to_owned(), "invalid_request", "Bad Request"),
    ];
    for (assertion, code, text) in cases {
        let answer = exchange(&google, &assertion).await;
        let expected = json!({ "error": code, "error_description": text });
        assert_eq!((answer.status, answer.json()), (400, expected));
    }
    let googles_own = with("aud", json!("https://oauth2.googleapis.com/token"));
    assert_eq!(exchange(&google, &googles_own).await.status, 200);
    google.delete_service_account(CALLER);
    assert_eq!(exchange(&google, &key.sign(&key.claims())).await.status, 400);
}

async fn start_with_user(scopes: &[&str]) -> Google {
    let user = User {
        client_id: CLIENT_ID.into(),
        client_secret: "secret".into(),
        refresh_token: "1//refresh".into(),
        email: "dev@example.com".into(),
        scopes: scopes.iter().map(|&scope| scope.into()).collect(),
    };
    Google::start(Options::default().user(user)).await.unwrap()
}

async fn refresh(google: &Google, client: &str, secret: &str, token: &str) -> Answer {
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", client),
        ("client_secret", secret),
        ("refresh_token", token),
    ];
    post_form(&google.oauth_token_url(), &fields).await
}

#[tokio::test]
async fn a_users_token_is_for_the_oauth_client() {
    let google = start_with_user(&["openid", "email"]).await;
    google.set_access_token_lifetime(Duration::from_secs(600));
    let answer = refresh(&google, CLIENT_ID, "secret", "1//refresh").await.json();
    assert_eq!(answer["scope"], "openid email");
    assert_eq!((answer["token_type"].as_str(), answer["expires_in"].as_i64()), (Some("Bearer"), Some(600)));
    let claims = claims(answer["id_token"].as_str().unwrap());
    assert_eq!(claims["aud"], "764086051850-demo.apps.googleusercontent.com");
    assert_eq!(claims["azp"], "764086051850-demo.apps.googleusercontent.com");
    assert_eq!(
        (claims["email"].as_str(), claims["email_verified"].as_bool()),
        (Some("dev@example.com"), Some(true))
    );
}

#[tokio::test]
async fn a_user_who_did_not_grant_openid_has_no_id_token() {
    let google = start_with_user(&["email"]).await;
    let answer = refresh(&google, CLIENT_ID, "secret", "1//refresh").await.json();
    assert_eq!(answer.get("id_token"), None);
    assert!(answer["access_token"].is_string());
}

#[tokio::test]
async fn bad_refreshes_are_refused() {
    let google = start_with_user(&["openid"]).await;
    let cases = [
        ("other", "secret", "1//refresh", 401, "invalid_client", "The OAuth client was not found."),
        (CLIENT_ID, "wrong", "1//refresh", 401, "invalid_client", "Unauthorized"),
        (CLIENT_ID, "secret", "1//revoked", 400, "invalid_grant", "Token has been expired or revoked."),
    ];
    for (client, secret, token, status, code, text) in cases {
        let answer = refresh(&google, client, secret, token).await;
        let expected = json!({ "error": code, "error_description": text });
        assert_eq!((answer.status, answer.json()), (status, expected));
    }
    let password = post_form(&google.oauth_token_url(), &[("grant_type", "password")]).await;
    assert_eq!(
        (password.status, password.json()),
        (
            400,
            json!({ "error": "unsupported_grant_type", "error_description": "Invalid grant_type: password" })
        )
    );
}

#[tokio::test]
async fn a_deleted_key_signs_no_more() {
    let (google, key) = KeyFile::create().await;
    let assertion = key.sign(&key.claims());
    assert_eq!(exchange(&google, &assertion).await.status, 200);
    google.delete_service_account_key(CALLER);
    let refused = exchange(&google, &assertion).await;
    let expected = json!({ "error": "invalid_grant", "error_description": "Invalid JWT Signature." });
    assert_eq!((refused.status, refused.json()), (400, expected));
    let file: Value = serde_json::from_str(&google.create_service_account_key(CALLER).unwrap()).unwrap();
    let new = KeyFile(file);
    assert_eq!(exchange(&google, &new.sign(&new.claims())).await.status, 200);
}

#[tokio::test]
async fn a_revoked_users_token_is_an_invalid_grant() {
    let google = start_with_user(&["openid"]).await;
    assert_eq!(refresh(&google, CLIENT_ID, "secret", "1//refresh").await.status, 200);
    google.revoke_user("1//refresh");
    let refused = refresh(&google, CLIENT_ID, "secret", "1//refresh").await;
    let expected =
        json!({ "error": "invalid_grant", "error_description": "Token has been expired or revoked." });
    assert_eq!((refused.status, refused.json()), (400, expected));
}

#[tokio::test]
async fn a_key_file_names_its_universe() {
    let options = Options { universe_domain: Some("s3nsapis.fr".into()), ..Options::default() };
    let google = Google::start(options).await.unwrap();
    let file: Value = serde_json::from_str(&google.create_service_account_key(CALLER).unwrap()).unwrap();
    assert_eq!(file["universe_domain"], "s3nsapis.fr");
}

/// What google-auth sends to IAM Credentials in other universes.
fn self_signed_claims() -> Value {
    let now = crate::clock::now().as_second();
    let scope = "https://www.googleapis.com/auth/iam";
    json!({ "iss": CALLER, "sub": CALLER, "iat": now, "exp": now + 3600, "scope": scope })
}

#[tokio::test]
async fn a_self_signed_jwt_stands_for_an_access_token() {
    let (google, key) = KeyFile::create().await;
    let method = format!("{CALLER}:generateIdToken");
    let ask = async |claims: &Value| {
        call_iam(&google, &key.sign(claims), &method, json!({ "audience": AUDIENCE })).await
    };
    assert_eq!(ask(&self_signed_claims()).await.status, 403, "known, but without a role on itself");
    google.grant(&format!("serviceAccount:{CALLER}"), Role::OpenIdTokenCreator, CALLER);
    let minted = ask(&self_signed_claims()).await;
    assert_eq!(claims(&minted.text("token"))["aud"], "https://orders-abc-uc.a.run.app");
    let now = crate::clock::now().as_second();
    let cases = [
        ("sub", json!("other@demo-project.iam.gserviceaccount.com"), 401),
        ("iss", json!("other@demo-project.iam.gserviceaccount.com"), 401),
        ("exp", json!(now + 7200), 401),
        ("exp", json!(now - 1), 401),
        ("iat", json!(now + 3000), 401),
        ("scope", json!("openid"), 403),
        ("scope", json!("https://www.googleapis.com/auth/cloud-platform"), 200),
    ];
    for (name, value, status) in cases {
        let mut claims = self_signed_claims();
        claims[name] = value.clone();
        assert_eq!(ask(&claims).await.status, status, "{name} = {value}");
    }
    let stranger = SigningKey::generate("stranger", crate::clock::now()).unwrap();
    let forged = stranger.sign(&self_signed_claims());
    assert_eq!(call_iam(&google, &forged, &method, json!({ "audience": AUDIENCE })).await.status, 401);
    google.delete_service_account_key(CALLER);
    assert_eq!(ask(&self_signed_claims()).await.status, 401);
}
