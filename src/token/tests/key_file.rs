use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";

/// A key file of the robot, as `change` leaves it.
fn write(directory: &TempDir, google: &Google, change: impl FnOnce(&mut Value)) -> PathBuf {
    let text = google.create_service_account_key(ROBOT).unwrap();
    let mut file = serde_json::from_str(&text).unwrap();
    change(&mut file);
    let path = directory.path().join("key.json");
    std::fs::write(&path, file.to_string()).unwrap();
    path
}

/// The robot may have ID tokens of the caller; the attached account may not.
fn options() -> Options {
    Options::default().service_account(CALLER).allow(
        &format!("serviceAccount:{ROBOT}"),
        Role::OpenIdTokenCreator,
        CALLER,
    )
}

async fn start(directory: &TempDir, change: impl FnOnce(&mut Value)) -> Bench {
    Bench::start_with(options(), |google| Some(write(directory, google, change))).await
}

/// What comes of the file that stands at `path`.
async fn error_of(path: &Path) -> Error {
    let path = path.to_owned();
    let bench = Bench::start_with(options(), |_| Some(path)).await;
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    let email = bench.minter.operator().email().await;
    assert_eq!(bench.google.requests().len(), 0, "nothing is sent for a file that can't be used");
    if let Err(same) = email {
        assert_eq!(same.to_string(), error.to_string());
    }
    error
}

#[tokio::test]
async fn the_operator_is_the_account_of_its_key_file() {
    let directory = TempDir::new().unwrap();
    let bench = start(&directory, |_| {}).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(ROBOT));
    let token = bench.mint(&impersonation(&[])).await.unwrap();
    assert_eq!(claims(&token)["email"], CALLER);
    bench.mint(&impersonation(&[])).await.unwrap();
    let endpoints: Vec<_> = bench.google.requests().iter().map(|r| r.endpoint).collect();
    assert_eq!(
        endpoints,
        [Endpoint::OauthToken, Endpoint::GenerateIdToken, Endpoint::GenerateIdToken],
        "one access token for both, none from the metadata server"
    );
}

#[tokio::test]
async fn no_url_of_the_file_is_used() {
    let directory = TempDir::new().unwrap();
    let (evil, url) = silent();
    evil.set_nonblocking(true).unwrap();
    let bench = start(&directory, |file| {
        for field in ["token_uri", "auth_uri", "auth_provider_x509_cert_url", "client_x509_cert_url"] {
            file[field] = json!(url.to_string());
        }
        file["universe_domain"] = json!("evil.example.com");
    })
    .await;
    assert!(bench.mint(&impersonation(&[])).await.is_ok());
    assert_eq!(evil.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn four_fields_are_enough() {
    let directory = TempDir::new().unwrap();
    let bench = start(&directory, |file| {
        let fields = ["type", "client_email", "private_key", "private_key_id"];
        file.as_object_mut().unwrap().retain(|name, _| fields.contains(&name.as_str()));
    })
    .await;
    assert!(bench.mint(&impersonation(&[])).await.is_ok());
}

#[tokio::test]
async fn a_replaced_file_is_read_anew() {
    let directory = TempDir::new().unwrap();
    let bench = start(&directory, |_| {}).await;
    bench.mint(&impersonation(&[])).await.unwrap();
    bench.google.delete_service_account(ROBOT); // with its key
    write(&directory, &bench.google, |_| {});
    pass(3600).await;
    assert!(bench.mint(&impersonation(&[])).await.is_ok());
    assert_eq!(bench.google.count(Endpoint::OauthToken), 2);
}

#[tokio::test]
async fn a_key_that_google_no_longer_knows_is_denied() {
    let directory = TempDir::new().unwrap();
    let bench = start(&directory, |_| {}).await;
    bench.google.delete_service_account(ROBOT);
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "OAuth token for robot@demo-project.iam.gserviceaccount.com: HTTP 400 invalid_grant; check that the key still \
         exists and that the clock is right"
    );
    bench.assert_silent(&error);
}

#[tokio::test]
async fn failures_of_the_token_endpoint_become_errors() {
    let directory = TempDir::new().unwrap();
    let bench = start(&directory, |_| {}).await;
    for (fault, reason, message) in [
        (Fault::TooManyRequests { retry_after: Some(3) }, Reason::QuotaExceeded, "HTTP 429 quota_exceeded"),
        (Fault::Unavailable, Reason::SourceUnavailable, "HTTP 503 temporarily_unavailable"),
        (Fault::Garbage, Reason::TokenRejected, "the answer holds no token"),
        (Fault::DropConnection, Reason::SourceUnavailable, "the connection broke"),
    ] {
        bench.google.set_fault(Endpoint::OauthToken, fault);
        let error = bench.mint(&impersonation(&[])).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert_eq!(error.to_string(), format!("OAuth token for {ROBOT}: {message}"));
        bench.assert_silent(&error);
    }
}

#[tokio::test]
async fn other_types_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("adc.json");
    for text in [
        r#"{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}"#,
        r#"{"type": "external_account", "credential_source": {"url": "http://127.0.0.1:1"}}"#,
        r#"{"type": "impersonated_service_account"}"#,
        r#"{"type": ""}"#,
        "{}",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = error_of(&path).await;
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
        let expected = format!(
            "credential file {} is not of type service_account; other types are refused",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn a_missing_file_is_told() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("none.json");
    let error = error_of(&path).await;
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotFound, Retry::Slowly));
    let expected = format!("credential file {} can't be read: entity not found", path.display());
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_broken_file_is_told_by_its_field_and_never_shown() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("broken.json");
    let file = |field: &str, value: Value| {
        let mut file = json!({
            "type": "service_account", "client_email": ROBOT, "private_key_id": "k",
            "private_key": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        });
        file[field] = value;
        file.to_string()
    };
    let table = [
        ("not json c2VjcmV0".to_owned(), "the JSON object"),
        ("[\"service_account\", \"c2VjcmV0\"]".to_owned(), "the JSON object"),
        (file("private_key", json!("c2VjcmV0")), "private_key"),
        (file("private_key", json!("")), "private_key"),
        (file("private_key", json!(null)), "private_key"),
        (file("private_key", json!(["c2VjcmV0"])), "the JSON object"),
        (file("project_id", json!("p")), "private_key"),
        (file("client_email", json!("")), "client_email"),
        (file("private_key_id", json!(null)), "private_key_id"),
    ];
    for (text, field) in table {
        std::fs::write(&path, &text).unwrap();
        let error = error_of(&path).await;
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
        let expected = format!(
            "credential file {}: {field} is missing or broken; download the key again",
            path.display()
        );
        assert_eq!(error.to_string(), expected, "{text}");
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }
}
