//! Google's own Python library against the simulator.

use std::time::Duration;

use super::super::{Endpoint, Fault};
use super::*;

/// Prints the e-mail, or the library's refusal.
const SCRIPT: &str = "
import sys
from google.auth.transport import requests
from google.oauth2 import id_token
token, audience, certs = sys.argv[1:]
try:
    print(id_token.verify_token(token, requests.Request(), audience, certs_url=certs)['email'])
except Exception as error:
    print(type(error).__name__ + ': ' + str(error))
";

/// Fetches as an application on Google Cloud does.
const FETCH: &str = "
import sys
from google.auth.transport import requests
from google.oauth2 import id_token
print(id_token.fetch_id_token(requests.Request(), sys.argv[1]))
";

async fn python(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let directory =
        std::env::var("IDTOKEN_PYTHON").expect("IDTOKEN_PYTHON names a venv with google-auth and requests");
    let output = tokio::process::Command::new(format!("{directory}/bin/python"))
        .args(["-c", script])
        .args(arguments)
        .envs(environment.iter().copied())
        .env("NO_PROXY", "127.0.0.1")
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[tokio::test]
#[ignore = "tier clients: needs Python"]
async fn google_auth_verifies_good_tokens_only() {
    let google = Google::start(Options::default()).await.unwrap();
    google.rotate_keys().unwrap();
    let certs = google.certs_v1_url();
    let token = identity(&google, &format!("audience={AUDIENCE}")).await.body;
    let verify = async |token: &str, audience: &str| python(SCRIPT, &[token, audience, &certs], &[]).await;
    assert_eq!(verify(&token, AUDIENCE).await, "operator@demo-project.iam.gserviceaccount.com");
    let wrong = verify(&token, "https://elsewhere.example.com").await;
    assert!(
        wrong.starts_with("InvalidValue: Token has wrong audience https://orders-abc-uc.a.run.app"),
        "{wrong}"
    );
    for (fault, refusal) in [
        (Fault::UnknownKey, "MalformedError: Certificate for key id"),
        (Fault::BadSignature, "MalformedError: Could not verify token signature"),
        (Fault::ExpiredToken, "InvalidValue: Token expired"),
    ] {
        google.set_fault_times(Endpoint::MetadataIdentity, fault, 1);
        let spoilt = identity(&google, &format!("audience={AUDIENCE}")).await.body;
        let answer = verify(&spoilt, AUDIENCE).await;
        assert!(answer.starts_with(refusal), "{answer}");
    }
}

#[tokio::test]
#[ignore = "tier clients: needs Python"]
async fn google_auth_takes_the_metadata_server_for_the_real_one() {
    let google = Google::start(Options::default()).await.unwrap();
    let host = google.metadata_url().trim_start_matches("http://").to_owned();
    let environment = [
        ("GCE_METADATA_HOST", host.as_str()),
        ("GCE_METADATA_IP", host.as_str()),
        ("GCE_METADATA_MTLS_MODE", "none"),
        ("GOOGLE_APPLICATION_CREDENTIALS", ""),
    ];
    let token = python(FETCH, &[AUDIENCE], &environment).await;
    assert!(verifies(&token, &jwks(&google).await));
    assert_eq!(claims(&token)["aud"], "https://orders-abc-uc.a.run.app");
}

#[tokio::test]
#[ignore = "tier clients: needs Python"]
async fn google_auth_takes_a_key_file_for_a_real_one() {
    let google = Google::start(Options::default()).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), google.create_service_account_key(CALLER).unwrap()).unwrap();
    let environment = [("GOOGLE_APPLICATION_CREDENTIALS", file.path().to_str().unwrap())];
    let token = python(FETCH, &[AUDIENCE], &environment).await;
    assert_eq!(claims(&token)["email"], "caller@demo-project.iam.gserviceaccount.com");
    assert!(verifies(&token, &jwks(&google).await));
}
