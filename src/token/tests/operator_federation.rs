//! The operator's identity by `external_account` and `impersonated_service_account` files.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::google::Provider;

use super::*;

const ISSUER: &str = "https://token.actions.example.com";
const AUDIENCE_OF_PROVIDER: &str =
    "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/providers/own";
const PRINCIPAL: &str = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/subject/operator";
const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";

/// The federated principal may be the robot, which may have ID tokens of the caller; so may the principal itself.
fn options() -> Options {
    Options::default()
        .provider(Provider::pool(123_456_789_012, "ci", "own", ISSUER))
        .service_account(ROBOT)
        .service_account(CALLER)
        .allow(PRINCIPAL, Role::WorkloadIdentityUser, ROBOT)
        .allow(PRINCIPAL, Role::WorkloadIdentityUser, CALLER)
        .allow(&format!("serviceAccount:{ROBOT}"), Role::OpenIdTokenCreator, CALLER)
}

fn subject_token() -> String {
    let now = crate::clock::now().as_second();
    let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encoded(&json!({"alg": "RS256", "kid": "k"}));
    let claims =
        json!({"iss": ISSUER, "sub": "operator", "aud": AUDIENCE_OF_PROVIDER, "iat": now, "exp": now + 3600});
    format!("{header}.{}.c2ln", encoded(&claims))
}

/// A file for workload identity federation, whose every URL of an API leads nowhere.
fn external(source: &Value) -> Value {
    json!({
        "type": "external_account",
        "audience": AUDIENCE_OF_PROVIDER,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "http://127.0.0.1:1/v1/token",
        "token_info_url": "http://127.0.0.1:1/v1/introspect",
        "credential_source": source,
    })
}

fn impersonating(mut file: Value) -> Value {
    file["service_account_impersonation_url"] =
        json!(format!("http://127.0.0.1:1/v1/projects/-/serviceAccounts/{ROBOT}:generateAccessToken"));
    file
}

struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn start(&self, file: &Value) -> Bench {
        let path = self.write("adc.json", &file.to_string());
        Bench::start_with(options(), |_| Sources { credentials_file: Some(path), ..Sources::default() }).await
    }

    async fn error(&self, file: &Value) -> Error {
        let bench = self.start(file).await;
        let error = bench.mint(&impersonation(&[])).await.unwrap_err();
        assert_eq!(bench.google.requests().len(), 0);
        error
    }
}

fn asked(bench: &Bench) -> Vec<Endpoint> {
    bench.google.requests().iter().map(|request| request.endpoint).collect()
}

#[tokio::test]
async fn a_token_file_is_exchanged_and_the_account_impersonated() {
    let files = Files::new();
    let token = files.write("token", &format!("{}\n", subject_token()));
    let bench = files.start(&impersonating(external(&json!({"file": token})))).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(ROBOT));
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    let all = [Endpoint::Sts, Endpoint::GenerateAccessToken, Endpoint::GenerateIdToken];
    assert_eq!(asked(&bench), all);
    assert_eq!(bench.google.requests()[0].header("authorization"), None);
    bench.mint(&impersonation(&[])).await.unwrap();
    assert_eq!(bench.google.requests().len(), 4, "the access token serves again");
    pass(3600).await;
    files.write("token", "eyJ");
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "token exchange for the operator: HTTP 400 invalid_request; check the workload identity provider {AUDIENCE_OF_PROVIDER}"
        ),
        "the token file is read anew"
    );
}

#[tokio::test]
async fn without_an_account_the_operator_is_the_principal_itself() {
    let files = Files::new();
    let token = files.write("token.json", &json!({"access": {}, "jwt": subject_token()}).to_string());
    let format = json!({"type": "json", "subject_token_field_name": "jwt"});
    let bench = files.start(&external(&json!({"file": token, "format": format}))).await;
    assert_eq!(bench.minter.operator().email().await.unwrap(), None);
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    assert_eq!(asked(&bench), [Endpoint::Sts, Endpoint::GenerateIdToken]);
}

#[tokio::test]
async fn a_url_gives_the_subject_token_to_who_sends_the_headers() {
    let answer = json!({"value": subject_token()}).to_string();
    let app = axum::Router::new().route(
        "/token",
        axum::routing::get(|headers: ::http::HeaderMap| async move {
            match headers.get("metadata").and_then(|v| v.to_str().ok()) {
                Some("True") => (::http::StatusCode::OK, answer),
                _ => (::http::StatusCode::FORBIDDEN, String::new()),
            }
        }),
    );
    let (url, _) = http_client::serve(app).await;
    let files = Files::new();
    let source = |header: &str| {
        json!({
            "url": format!("{url}token"), "headers": {"Metadata": header},
            "format": {"type": "json", "subject_token_field_name": "value"},
        })
    };
    let bench = files.start(&impersonating(external(&source("True")))).await;
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    let refused = files.error(&external(&source("c2VjcmV0"))).await;
    let soon = Retry::Transient { retry_after: None };
    assert_eq!((refused.reason(), refused.retry()), (Reason::SourceUnavailable, soon));
    assert!(refused.to_string().ends_with("adc.json: its subject token URL: HTTP 403"), "{refused}");
}

#[tokio::test]
async fn a_subject_token_that_is_not_to_be_had_is_told() {
    let files = Files::new();
    let empty = files.write("empty", " \n");
    let list = files.write("list", "[\"c2VjcmV0\"]");
    let bytes = files.directory.path().join("bytes");
    std::fs::write(&bytes, [0xff, 0xfe]).unwrap();
    let as_json = json!({"type": "json", "subject_token_field_name": "jwt"});
    let nothing = "its subject token is empty, or not of the format that the file names";
    let table = [
        (
            json!({"file": files.directory.path().join("none")}),
            "its subject token file can't be read: entity not found",
        ),
        (json!({"file": empty}), nothing),
        (json!({"file": bytes}), nothing),
        (json!({"file": list, "format": as_json}), nothing),
        (
            json!({"url": "http://127.0.0.1:1/"}),
            "its subject token URL: connection failed: Connection refused (os error 111)",
        ),
    ];
    for (source, why) in table {
        let error = files.error(&external(&source)).await;
        let soon = Retry::Transient { retry_after: None };
        assert_eq!((error.reason(), error.retry()), (Reason::SourceUnavailable, soon));
        let expected = format!("credential file {}/adc.json: {why}", files.directory.path().display());
        assert_eq!(error.to_string(), expected);
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }
}

#[tokio::test]
async fn what_is_no_plain_federation_is_refused() {
    let files = Files::new();
    let of = |field: &str, value: Value| {
        let mut file = external(&json!({"file": "/token"}));
        file[field] = value;
        file
    };
    let source = |source: Value| of("credential_source", source);
    let place = "has a credential_source that is neither a file nor a URL";
    let url = "has a credential_source.url that is neither https nor on loopback or link-local";
    let table = [
        (source(json!({"executable": {"command": "/bin/c2VjcmV0"}})), place),
        (source(json!({"environment_id": "aws1", "url": "http://169.254.169.254/x"})), place),
        (source(json!({"certificate": {"use_default_certificate_config": true}})), place),
        (source(json!({"file": "/a", "url": "https://b"})), place),
        (source(json!({})), place),
        (of("credential_source", json!(null)), place),
        (source(json!({"url": "http://tokens.example.com/"})), url),
        (source(json!({"url": "http://10.0.0.1/"})), url),
        (source(json!({"url": "file:///etc/passwd"})), url),
        (source(json!({"url": "not a url"})), url),
        (
            source(json!({"url": "https://x", "headers": {"a b": "c"}})),
            "has no usable credential_source.headers",
        ),
        (source(json!({"file": "/a", "format": {"type": "xml"}})), "has no usable credential_source.format"),
        (source(json!({"file": "/a", "format": {"type": "json"}})), "has no usable credential_source.format"),
        (
            of("audience", json!("//iam.googleapis.com/locations/global/workforcePools/p/providers/q")),
            "is for workforce identity federation",
        ),
        (of("workforce_pool_user_project", json!("p")), "is for workforce identity federation"),
        (of("audience", json!("")), "has no usable audience"),
        (
            of("subject_token_type", json!("urn:ietf:params:oauth:token-type:saml2")),
            "has no usable subject_token_type",
        ),
        (
            of("service_account_impersonation_url", json!("https://evil.example.com/x")),
            "has no usable service_account_impersonation_url",
        ),
    ];
    for (file, why) in table {
        let error = files.error(&file).await;
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::Slowly));
        let expected = format!(
            "credential file {}/adc.json {why}; taken are service_account, external_account (with a file or a URL as \
             credential_source) and impersonated_service_account",
            files.directory.path().display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn plain_http_is_for_this_machine_and_its_hypervisor() {
    use crate::token::endpoints::is_beyond_machine;
    for near in ["127.0.0.1", "[::1]", "localhost", "169.254.169.254", "[fe80::1]"] {
        assert!(!is_beyond_machine(near), "{near}");
    }
    for far in
        ["10.0.0.1", "169.253.0.1", "metadata.google.internal", "[fd00::1]", "localhost.example.com", ""]
    {
        assert!(is_beyond_machine(far), "{far}");
    }
}

#[tokio::test]
async fn an_impersonated_account_goes_through_its_delegates() {
    let files = Files::new();
    let between = "between@demo-project.iam.gserviceaccount.com";
    let key_owner = "owner@demo-project.iam.gserviceaccount.com";
    let options = options()
        .service_account(between)
        .allow(&format!("serviceAccount:{key_owner}"), Role::TokenCreator, between)
        .allow(&format!("serviceAccount:{between}"), Role::TokenCreator, ROBOT);
    let sources = |google: &Google| {
        let key: Value =
            serde_json::from_str(&google.create_service_account_key(key_owner).unwrap()).unwrap();
        let mut file =
            impersonating(json!({"type": "impersonated_service_account", "source_credentials": key}));
        file["delegates"] = json!([format!("projects/-/serviceAccounts/{between}")]);
        let path = files.write("adc.json", &file.to_string());
        Sources { credentials_file: Some(path), ..Sources::default() }
    };
    let bench = Bench::start_with(options, sources).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(ROBOT));
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    assert_eq!(
        asked(&bench),
        [Endpoint::OauthToken, Endpoint::GenerateAccessToken, Endpoint::GenerateIdToken]
    );
    bench.google.revoke(&format!("serviceAccount:{between}"), Role::TokenCreator, ROBOT);
    pass(3600).await;
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "generateAccessToken for {ROBOT}: HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED; check that {ROBOT} exists and that whom \
             the credential file stands for may impersonate it: roles/iam.workloadIdentityUser for a federated principal, else \
             roles/iam.serviceAccountTokenCreator"
        )
    );
}

/// Of what is asked, only the place of the subject token comes from the file.
#[tokio::test]
async fn no_url_of_an_api_in_a_file_is_used() {
    let files = Files::new();
    let (trap, url) = silent();
    trap.set_nonblocking(true).unwrap();
    let token = files.write("token", &subject_token());
    let mut source = external(&json!({"file": token}));
    for field in
        ["token_url", "token_info_url", "token_uri", "auth_uri", "universe_domain", "quota_project_id"]
    {
        source[field] = json!(format!("{url}v1/token"));
    }
    let impersonation_url = format!("{url}v1/projects/-/serviceAccounts/{ROBOT}:generateAccessToken");
    let mut direct = source.clone();
    direct["service_account_impersonation_url"] = json!(impersonation_url);
    let chained = json!({
        "type": "impersonated_service_account", "service_account_impersonation_url": impersonation_url,
        "source_credentials": source, "token_uri": url.to_string(), "universe_domain": url.authority().unwrap().as_str(),
    });
    for file in [source, direct, chained] {
        let bench = files.start(&file).await;
        assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
        assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{file}");
    }
}

#[tokio::test]
async fn an_impersonation_stands_on_one_file_of_a_type_that_is_taken() {
    let files = Files::new();
    let token = files.write("token", &subject_token());
    let of = |source: Value| {
        impersonating(json!({"type": "impersonated_service_account", "source_credentials": source}))
    };
    let bench = files.start(&of(external(&json!({"file": token})))).await;
    assert_eq!(claims(&bench.mint(&impersonation(&[])).await.unwrap())["email"], CALLER);
    let user =
        json!({"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"});
    let error = files.error(&of(user)).await;
    assert!(error.to_string().contains("and the controller acts as no person"), "{error}");
    let mut without_target = of(external(&json!({"file": "/token"})));
    without_target["service_account_impersonation_url"] = json!(null);
    let mut wrong_delegate = of(external(&json!({"file": "/token"})));
    wrong_delegate["delegates"] = json!(["someone@example.com"]);
    let table = [
        (of(of(json!({}))), "has no usable source_credentials"),
        (of(json!(null)), "has no usable source_credentials"),
        (of(json!({"type": "gdch_service_account"})), "is of type gdch_service_account"),
        (without_target, "has no usable service_account_impersonation_url"),
        (wrong_delegate, "has no usable delegates"),
    ];
    for (file, why) in table {
        let error = files.error(&file).await;
        assert!(error.to_string().contains(&format!("adc.json {why}; taken are ")), "{error}");
    }
}
