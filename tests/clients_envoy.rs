//! Envoy's jwt_authn takes the simulator's tokens for their audience only: its tokens are as good as Google's.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{AUDIENCE, CALLER, envoy::Envoy, google_options, http_client};
use serde_json::{Value, json};
use xtask::google::{Google, PasswordUser};

#[tokio::test]
#[ignore = "tier clients: needs Envoy"]
async fn envoy_lets_in_impersonated_tokens_for_its_audience_only() {
    let google = Google::start(google_options()).await.unwrap();
    let jwks = http_client::get(&google.jwks_url()).await.unwrap();
    let envoy = Envoy::start("https://accounts.google.com", &[AUDIENCE], &jwks).await;
    let token = impersonated(&google, AUDIENCE).await;
    assert_eq!(envoy.call(Some(&token)).await, (200, "hello from orders\n".to_owned()));
    let other = impersonated(&google, "https://stock-abc-uc.a.run.app").await;
    let refused = (403, "Audiences in Jwt are not allowed".to_owned());
    assert_eq!(envoy.call(Some(&other)).await, refused);
    assert_eq!(envoy.call(None).await, (401, "Jwt is missing".to_owned()));
    let (signed, _) = token.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{signature}");
    assert_eq!(envoy.call(Some(&forged)).await, (401, "Jwt verification fails".to_owned()));
    envoy.stop().await;
    google.stop().await;
}

#[tokio::test]
#[ignore = "tier clients: needs Envoy"]
async fn envoy_lets_in_identity_platforms_tokens_by_their_own_keys() {
    let user = PasswordUser::new("batch@example.com", "correct horse");
    let google = Google::start(google_options().api_key("demo").password_user(user)).await.unwrap();
    let url = format!("{}/v1/accounts:signInWithPassword?key=demo", google.identity_toolkit_url());
    let body = json!({"email": "batch@example.com", "password": "correct horse", "returnSecureToken": true});
    let (_, answer) = http_client::post_json(&url, None, &body).await.unwrap();
    let token = answer["idToken"].as_str().unwrap();
    let issuer = "https://securetoken.google.com/demo-project";
    let jwks = http_client::get(&google.secure_token_jwks_url()).await.unwrap();
    for (audience, status) in [("demo-project", 200), ("other-project", 403)] {
        let envoy = Envoy::start(issuer, &[audience], &jwks).await;
        assert_eq!(envoy.call(Some(token)).await.0, status, "{audience}");
        envoy.stop().await;
    }
    let of_accounts = http_client::get(&google.jwks_url()).await.unwrap();
    let envoy = Envoy::start(issuer, &["demo-project"], &of_accounts).await;
    assert_eq!(envoy.call(Some(token)).await.0, 401, "they are not the keys of accounts.google.com");
    envoy.stop().await;
    google.stop().await;
}

/// A token of the caller, made as the operator makes it.
async fn impersonated(google: &Google, audience: &str) -> String {
    let url = format!("{}/computeMetadata/v1/instance/service-accounts/default/token", google.metadata_url());
    let flavor = [("metadata-flavor", "Google")];
    let (_, access) = http_client::send(http::Method::GET, &url, &flavor, String::new()).await.unwrap();
    let access: Value = serde_json::from_str(&access).unwrap();
    let url =
        format!("{}/v1/projects/-/serviceAccounts/{CALLER}:generateIdToken", google.iam_credentials_url());
    let body = json!({"audience": audience, "includeEmail": true});
    let (status, answer) =
        http_client::post_json(&url, access["access_token"].as_str(), &body).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}
