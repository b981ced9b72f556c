//! Google's own Python library takes the token in the Secret, for the audience of its binding only; and by the same
//! credential files it gets the tokens that we get.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "clients_google_auth/same_files.rs"]
mod same_files;

use common::{AUDIENCE, World, google_options, impersonation, python::python, token};

/// Prints the claims that a receiver decides by, or the library's refusal.
const VERIFY: &str = "
import sys
from google.auth.transport import requests
from google.oauth2 import id_token
token, audience, certs = sys.stdin.read(), *sys.argv[1:]
try:
    claims = id_token.verify_token(token, requests.Request(), audience, certs_url=certs)
    print(claims['iss'], claims['aud'], claims['email'], claims['email_verified'])
except Exception as error:
    print(type(error).__name__ + ': ' + str(error))
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Python with google-auth"]
async fn google_auth_verifies_the_token_in_the_secret() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let good = token(&world.secret_of("orders").await);
    let certs = world.google.certs_v1_url();
    let verify = async |token: &str, audience: &str| python(VERIFY, token, &[audience, &certs], &[]).await;

    assert_eq!(
        verify(&good, AUDIENCE).await,
        "https://accounts.google.com https://orders-abc-uc.a.run.app caller@demo-project.iam.gserviceaccount.com True"
    );
    let wrong = verify(&good, "https://stock-abc-uc.a.run.app").await;
    assert!(
        wrong.starts_with("InvalidValue: Token has wrong audience https://orders-abc-uc.a.run.app"),
        "{wrong}"
    );
    // Other claims under the same signature.
    let [header, payload, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let mut claims = common::claims(&good);
    claims["email"] = "admin@demo-project.iam.gserviceaccount.com".into();
    let forged = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims.to_string());
    assert_ne!(forged, payload);
    assert_eq!(
        verify(&format!("{header}.{forged}.{signature}"), AUDIENCE).await,
        "MalformedError: Could not verify token signature."
    );
    world.end().await;
}
