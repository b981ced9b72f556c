//! Google's own Python library takes the token in the Secret, for the audience of its binding only.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{AUDIENCE, World, google_options, impersonation, token};

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
    let verify = async |token: &str, audience: &str| python(VERIFY, token, &[audience, &certs]).await;

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

/// Runs a script in the environment that `IDTOKEN_PYTHON` names; what it prints.
async fn python(script: &str, input: &str, arguments: &[&str]) -> String {
    use tokio::io::AsyncWriteExt as _;
    let directory =
        std::env::var("IDTOKEN_PYTHON").expect("IDTOKEN_PYTHON names a venv with google-auth and requests");
    let mut child = tokio::process::Command::new(format!("{directory}/bin/python"))
        .args(["-c", script])
        .args(arguments)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output =
        tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
