use std::path::{Path, PathBuf};

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

fn named(path: PathBuf) -> Sources {
    Sources { credentials_file: Some(path), ..Sources::default() }
}

async fn start(directory: &TempDir, change: impl FnOnce(&mut Value)) -> Bench {
    Bench::start_with(options(), |google| named(write(directory, google, change))).await
}

/// What comes of the file that stands at `path`.
async fn error_of(path: &Path) -> Error {
    let path = path.to_owned();
    let bench = Bench::start_with(options(), |_| named(path)).await;
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    let email = bench.minter.operator().email().await;
    assert_eq!(bench.google.requests().len(), 0, "nothing is sent for a file that can't be used");
    if let Err(same) = email {
        assert_eq!(same.to_string(), error.to_string());
    }
    error
}

#[tokio::test]
async fn a_key_in_the_place_of_its_path_is_shown_nowhere() {
    let key = r#"{"type":"service_account","private_key":"-----BEGIN PRIVATE KEY-----\nplanted"}"#;
    let error = error_of(Path::new(key)).await;
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
    assert!(
        error
            .to_string()
            .ends_with("perhaps the content of a file: mount the Secret as a file, and give its path"),
        "{error}"
    );
    let sources = named(PathBuf::from(key));
    for text in [error.to_string(), format!("{error:?}"), format!("{sources:?}")] {
        assert!(!text.contains("planted") && !text.contains("BEGIN"), "{text}");
    }
    let (http, bench) = (Http::new().unwrap(), Bench::start(options()).await);
    let operator = Operator::new(&http, &endpoints(&bench.google), sources);
    assert!(!format!("{operator:?}").contains("planted"));
}

#[tokio::test]
async fn where_a_person_may_be_the_caller_the_mend_says_so() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key.json");
    std::fs::write(&path, "[]").unwrap();
    let google = Google::start(options()).await.unwrap();
    let http = Http::new().unwrap();
    let mut endpoints = endpoints(&google);
    let at = |path| Sources { allow_user: true, ..named(path) };
    let error = Operator::new(&http, &endpoints, at(path)).email().await.unwrap_err();
    assert!(
        error.to_string().contains("; taken are service_account, authorized_user, external_account "),
        "{error}"
    );
    endpoints.metadata = "http://127.0.0.1:1".parse().unwrap();
    let nobody = Sources { allow_user: true, ..Sources::default() };
    let error = Operator::new(&http, &endpoints, nobody).email().await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceUnavailable);
    assert!(error.to_string().starts_with("metadata server, email: connection failed: "), "{error}");
    assert!(error.to_string().contains("; no credential file was found: sign in with gcloud "), "{error}");
    let error = Operator::new(&http, &endpoints, Sources::default()).email().await.unwrap_err();
    assert!(!error.to_string().contains("gcloud"), "{error}");
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
async fn types_that_serve_for_nothing_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("adc.json");
    for (text, why) in [
        (r#"{"type": "external_account_authorized_user"}"#, "is of type external_account_authorized_user"),
        (r#"{"type": "gdch_service_account"}"#, "is of type gdch_service_account"),
        (r#"{"type": "c2VjcmV0"}"#, "is of no known type"),
        (r#"{"type": ""}"#, "is of no known type"),
        (r#"{"installed": {"client_secret": "c2VjcmV0"}}"#, "is of no known type"),
        ("{}", "is of no known type"),
        (" \n", "is empty"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = error_of(&path).await;
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
        let expected = format!(
            "credential file {} {why}; taken are service_account, external_account (with a file or a URL as credential_source) and \
             impersonated_service_account",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

const USER: &str =
    r#"{"type": "authorized_user", "client_id": "c1", "client_secret": "s1", "refresh_token": "1//r1"}"#;

#[tokio::test]
async fn a_persons_file_serves_only_where_that_is_allowed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("adc.json");
    std::fs::write(&path, USER).unwrap();
    let error = error_of(&path).await;
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        format!(
            "credential file {} is a person's (type authorized_user, as gcloud writes it), and the controller acts as no person; taken \
             are service_account, external_account (with a file or a URL as credential_source) and impersonated_service_account",
            path.display()
        )
    );
    let user = xtask::google::User {
        client_id: "c1".to_owned(),
        client_secret: "s1".to_owned(),
        refresh_token: "1//r1".to_owned(),
        email: "dev@example.com".to_owned(),
        scopes: vec![xtask::google::CLOUD_PLATFORM.to_owned()],
    };
    let options = Options::default().service_account(CALLER).user(user).allow(
        "user:dev@example.com",
        Role::OpenIdTokenCreator,
        CALLER,
    );
    let sources = |_: &Google| Sources { allow_user: true, ..named(path) };
    let bench = Bench::start_with(options, sources).await;
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    assert_eq!(bench.minter.operator().email().await.unwrap(), None);
    bench.google.revoke_user("1//r1");
    pass(3600).await;
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "OAuth token for gcloud's user: HTTP 400 invalid_grant; sign in again: gcloud auth application-default login"
    );
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
}

#[tokio::test]
async fn gclouds_file_serves_where_it_exists_and_no_other_is_named() {
    let directory = TempDir::new().unwrap();
    let gcloud = directory.path().join("application_default_credentials.json");
    let sources = Sources { gcloud_file: Some(gcloud.clone()), ..Sources::default() };
    let bench = Bench::start_with(options(), |_| sources.clone()).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(OPERATOR), "the machine's");
    std::fs::rename(write(&directory, &bench.google, |_| {}), &gcloud).unwrap();
    pass(601).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(ROBOT));
    let missing = Sources { credentials_file: Some(directory.path().join("none.json")), ..sources };
    let bench = Bench::start_with(options(), |_| missing).await;
    let error = bench.minter.operator().email().await.unwrap_err();
    assert_eq!(error.reason(), Reason::CredentialsNotFound, "the one that is named, or none");
}

#[tokio::test]
async fn in_another_universe_a_key_signs_for_itself() {
    let directory = TempDir::new().unwrap();
    let google = Google::start(options()).await.unwrap();
    let path = write(&directory, &google, |_| {});
    let http = Http::new().unwrap();
    let nowhere = "http://127.0.0.1:1/token".parse().unwrap();
    let universe = "universe.example.com".to_owned();
    let endpoints = Endpoints { universe, oauth_token: nowhere, ..endpoints(&google) };
    let operator = Operator::new(&http, &endpoints, named(path));
    let bench = Bench { minter: Minter::new(&http, &endpoints, operator), google };
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 1);
    assert_eq!(bench.google.requests().len(), 1);
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
    let cut_off = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n";
    let pem = "has a private_key that is cut off or is no PKCS#8 PEM";
    let rsa = "has a private_key that is broken or is no RSA key of at least 2048 bits";
    let json = "is no JSON object with the fields of a credential file";
    let table = [
        ("not json c2VjcmV0".to_owned(), json),
        ("[\"service_account\", \"c2VjcmV0\"]".to_owned(), json),
        (file("private_key", json!("c2VjcmV0")), pem),
        (file("private_key", json!(cut_off)), pem),
        (file("private_key", json!(ec_key())), rsa),
        (file("private_key", json!("")), "has no usable private_key"),
        (file("private_key", json!(null)), "has no usable private_key"),
        (file("private_key", json!(["c2VjcmV0"])), json),
        (file("project_id", json!("p")), rsa),
        (file("client_email", json!("")), "has no usable client_email"),
        (file("client_email", json!("c2VjcmV0@example.com")), "has no usable client_email"),
        (file("private_key_id", json!(null)), "has no usable private_key_id"),
    ];
    for (text, why) in table {
        std::fs::write(&path, &text).unwrap();
        let error = error_of(&path).await;
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
        let expected = format!("credential file {} {why}; taken are ", path.display());
        assert!(error.to_string().starts_with(&expected), "{error} for {text}");
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }
    std::fs::write(&path, b"\xff\xfe{}").unwrap();
    let error = error_of(&path).await;
    assert!(error.to_string().contains("json is not UTF-8 text; taken are "), "{error}");
}
