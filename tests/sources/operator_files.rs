//! The operator's own identity by each type of credential file: how it gets the access token that everything else begins with.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::google::{Endpoint, Fault, Options, Provider, Role};

use crate::{
    bench::{AUDIENCE, Bench, CALLER, OPERATOR, Row, SOON, after, disabled, invalid_argument, judge, wanted},
    rows, user_credentials,
};
use idtoken_operator::{
    plan::Retry::{self, Slowly},
    token::operator::Sources,
};

const OWNER: &str = "owner@demo-project.iam.gserviceaccount.com";
const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";
const ISSUER: &str = "https://token.actions.example.com";
const PROVIDER: &str =
    "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/providers/own";
const PRINCIPAL: &str = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/subject/operator";
const VM_PROVIDER: &str =
    "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/vm/providers/own";

const KEY: &[Endpoint] = &[Endpoint::OauthToken];
const FEDERATION: &[Endpoint] = &[Endpoint::Sts];
const FEDERATED_ACCOUNT: &[Endpoint] = &[Endpoint::Sts, Endpoint::GenerateAccessToken];
const SUBJECT_URL: &[Endpoint] = &[Endpoint::MetadataIdentity];
const FEDERATED_BY_URL: &[Endpoint] = &[Endpoint::MetadataIdentity, Endpoint::Sts];
const IMPERSONATION: &[Endpoint] = &[Endpoint::OauthToken, Endpoint::GenerateAccessToken];

/// A simulator, and an operator with a credential file of its own.
struct Operator {
    bench: Bench,
    files: TempDir,
}

impl Operator {
    /// `allow_user`: as in `token mint`, on a person's machine.
    async fn start(allow_user: bool) -> Self {
        let files = TempDir::new().unwrap();
        let credentials_file = Some(files.path().join("adc.json"));
        let sources = Sources { credentials_file, allow_user, ..Sources::default() };
        let bench = Bench::start_as(options(), sources).await;
        let vm = bench.google.unique_id(OPERATOR);
        let vm = format!(
            "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/vm/subject/{vm}"
        );
        bench.google.grant(&vm, Role::WorkloadIdentityUser, CALLER);
        let operator = Self { bench, files };
        operator.write("token", &operator.subject_token());
        operator
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes `file` the operator's.
    fn is(&self, file: &Value) {
        self.write("adc.json", &file.to_string());
    }

    fn subject_token(&self) -> String {
        let now = jiff::Timestamp::now().as_second();
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let claims =
            json!({"iss": ISSUER, "sub": "operator", "aud": PROVIDER, "iat": now, "exp": now + 3600});
        let token = format!("{}.{}.c2lnbmF0dXJl", part(&json!({"alg": "RS256", "kid": "ci"})), part(&claims));
        self.bench.credentials.plant(&token);
        token
    }

    fn key(&self) -> Value {
        serde_json::from_str(&self.bench.new_key(OWNER)).unwrap()
    }

    fn external(&self) -> Value {
        json!({
            "type": "external_account", "audience": PROVIDER, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "http://127.0.0.1:1/v1/token", "credential_source": {"file": self.files.path().join("token")},
        })
    }

    /// The subject token is the VM's own ID token.
    fn external_by_url(&self) -> Value {
        let metadata = self.bench.google.metadata_url();
        let url = format!(
            "{metadata}/computeMetadata/v1/instance/service-accounts/default/identity?audience={VM_PROVIDER}"
        );
        let mut file = self.external();
        file["audience"] = json!(VM_PROVIDER);
        file["credential_source"] = json!({"url": url, "headers": {"Metadata-Flavor": "Google"}});
        file
    }

    fn person(&self) -> Value {
        user_credentials::keep_file(&self.bench);
        user_credentials::file()
    }

    /// Each failure in `rows`, then the first token, an access token that Google takes no longer, and a refresh.
    async fn table(&self, rows: Vec<Row>, asked: &[Endpoint]) {
        let wanted = wanted(AUDIENCE, &json!({"impersonation": {"serviceAccount": CALLER}}));
        // What is spoilt, and what was refused, is not kept: the next row asks anew.
        self.bench.table(&wanted, rows, |_| {}).await;
        let once = [asked, &[Endpoint::GenerateIdToken]].concat();
        self.bench.google.set_fault_times(*asked.last().unwrap(), Fault::ExpiredToken, 1);
        assert_eq!(self.bench.good(&wanted).await["email"], CALLER);
        assert_eq!(self.bench.asked(), [once.clone(), once].concat(), "the access token is replaced, once");
        assert_eq!(self.bench.good(&wanted).await["email"], CALLER);
        assert_eq!(
            self.bench.asked(),
            [Endpoint::GenerateIdToken],
            "a refresh uses the access token that is there"
        );
    }

    async fn refused(&self, case: &str, reason: &str, retry: Retry, says: &str) {
        let wanted = wanted(AUDIENCE, &json!({"impersonation": {"serviceAccount": CALLER}}));
        let problem = self.bench.obtain(&wanted).await.map(|_| ()).expect_err(case);
        judge(case, &problem, reason, retry, false, says);
        self.bench.assert_silent(case, &problem);
        assert_eq!(self.bench.asked(), [], "{case}");
    }
}

fn options() -> Options {
    let options = [OWNER, ROBOT].into_iter().fold(crate::bench::options(), Options::service_account);
    let member = |email: &str| format!("serviceAccount:{email}");
    let vm = Provider::pool(123_456_789_012, "vm", "own", "https://accounts.google.com");
    user_credentials::with_user(options, &["openid", "https://www.googleapis.com/auth/cloud-platform"])
        .provider(Provider::pool(123_456_789_012, "ci", "own", ISSUER))
        .provider(vm)
        .allow(PRINCIPAL, Role::WorkloadIdentityUser, ROBOT)
        .allow(PRINCIPAL, Role::WorkloadIdentityUser, CALLER)
        .allow(&member(OWNER), Role::TokenCreator, ROBOT)
        .allow(&member(OWNER), Role::OpenIdTokenCreator, CALLER)
        .allow(&member(ROBOT), Role::OpenIdTokenCreator, CALLER)
        .allow("user:developer@example.com", Role::OpenIdTokenCreator, CALLER)
}

/// What fails everywhere in the same way.
fn failures(at: Endpoint, asked: &'static [Endpoint]) -> Vec<Row> {
    let row = |fault, reason, retry, says| Row { at, fault, reason, retry, stalled: false, says, asked };
    vec![
        row(Fault::TooManyRequests { retry_after: Some(9) }, "QuotaExceeded", after(9), "HTTP 429"),
        row(Fault::InternalError, "SourceUnavailable", SOON, "HTTP 500"),
        row(Fault::Unavailable, "SourceUnavailable", SOON, "HTTP 503"),
        row(Fault::DropConnection, "SourceUnavailable", SOON, "the connection broke"),
        row(Fault::TooLarge, "SourceUnavailable", SOON, "the answer is larger than 256 KB"),
        row(Fault::Garbage, "TokenRejected", SOON, "the answer holds no token"),
    ]
}

fn oauth(status: u16, code: &'static str, description: &'static str) -> Fault {
    Fault::OauthError { status, code, description, subtype: None }
}

#[tokio::test]
async fn service_account() {
    let operator = Operator::start(false).await;
    operator.is(&operator.key());
    let mut rows = rows! {
        OauthToken: oauth(400, "invalid_grant", "Invalid JWT Signature.") => "SourceDenied", Slowly, false, "OAuth token for owner@demo-project.iam.gserviceaccount.com: HTTP 400 invalid_grant; check that the key still exists", [OauthToken];
        OauthToken: oauth(401, "invalid_client", "The OAuth client was not found.") => "SourceDenied", Slowly, false, "HTTP 401 invalid_client", [OauthToken];
        OauthToken: oauth(401, "deleted_client", "The OAuth client was deleted.") => "SourceDenied", Slowly, false, "HTTP 401 deleted_client", [OauthToken];
    };
    rows.extend(failures(Endpoint::OauthToken, KEY));
    operator.table(rows, KEY).await;
}

#[tokio::test]
async fn external_account_of_a_file() {
    let operator = Operator::start(false).await;
    operator.is(&operator.external());
    let condition = "The given credential is rejected by the attribute condition.";
    let mut rows = rows! {
        Sts: oauth(400, "invalid_grant", "ID Token issued at 1 is stale to sign-in.") => "SourceDenied", Slowly, false, "token exchange for the operator: HTTP 400 invalid_grant", [Sts];
        Sts: oauth(400, "unauthorized_client", condition) => "SourceDenied", Slowly, false, "attribute condition", [Sts];
        Sts: oauth(400, "invalid_target", "The target service is invalid.") => "SourceDenied", Slowly, false, "HTTP 400 invalid_target", [Sts];
    };
    rows.extend(failures(Endpoint::Sts, FEDERATION));
    operator.table(rows, FEDERATION).await;
}

#[tokio::test]
async fn external_account_that_impersonates() {
    let operator = Operator::start(false).await;
    operator.is(&impersonating(operator.external()));
    let mut rows = rows! {
        GenerateAccessToken: Fault::Forbidden => "SourceDenied", Slowly, false, "generateAccessToken for robot@demo-project.iam.gserviceaccount.com: HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED", [Sts, GenerateAccessToken];
        GenerateAccessToken: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404 NOT_FOUND", [Sts, GenerateAccessToken];
    };
    rows.extend(failures(Endpoint::Sts, FEDERATION));
    rows.extend(failures(Endpoint::GenerateAccessToken, FEDERATED_ACCOUNT));
    operator.table(rows, FEDERATED_ACCOUNT).await;
}

#[tokio::test]
async fn external_account_of_a_url() {
    let operator = Operator::start(false).await;
    operator.is(&operator.external_by_url());
    let row = |fault, says| Row {
        at: Endpoint::MetadataIdentity,
        fault,
        reason: "SourceUnavailable",
        retry: SOON,
        stalled: false,
        says,
        asked: SUBJECT_URL,
    };
    let mut rows = vec![
        row(Fault::TooManyRequests { retry_after: Some(9) }, "its subject token URL: HTTP 429"),
        row(Fault::Forbidden, "its subject token URL: HTTP 403"),
        row(Fault::NotFound, "its subject token URL: HTTP 404"),
        row(Fault::InternalError, "its subject token URL: HTTP 500"),
        row(Fault::Unavailable, "its subject token URL: HTTP 503"),
        row(Fault::DropConnection, "its subject token URL: the connection broke"),
        row(Fault::TooLarge, "its subject token URL: the answer is larger than 256 KB"),
    ];
    rows.extend(rows! {
        MetadataIdentity: Fault::WrongAudience => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [MetadataIdentity, Sts];
        MetadataIdentity: Fault::ExpiredToken => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [MetadataIdentity, Sts];
        MetadataIdentity: Fault::Garbage => "SourceDenied", Slowly, false, "HTTP 400 invalid_request", [MetadataIdentity, Sts];
    });
    rows.extend(failures(Endpoint::Sts, FEDERATED_BY_URL));
    operator.table(rows, FEDERATED_BY_URL).await;
}

#[tokio::test]
async fn impersonated_service_account() {
    let operator = Operator::start(false).await;
    let source = operator.key();
    operator
        .is(&impersonating(json!({"type": "impersonated_service_account", "source_credentials": source})));
    let mut rows = rows! {
        OauthToken: oauth(400, "invalid_grant", "Invalid JWT Signature.") => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [OauthToken];
        GenerateAccessToken: Fault::Forbidden => "SourceDenied", Slowly, false, "roles/iam.serviceAccountTokenCreator", [OauthToken, GenerateAccessToken];
        GenerateAccessToken: disabled() => "SourceDenied", Slowly, false, "gcloud services enable iamcredentials.googleapis.com", [OauthToken, GenerateAccessToken];
        GenerateAccessToken: invalid_argument() => "SourceDenied", Slowly, false, "HTTP 400 INVALID_ARGUMENT", [OauthToken, GenerateAccessToken];
        GenerateAccessToken: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404 NOT_FOUND", [OauthToken, GenerateAccessToken];
    };
    rows.extend(failures(Endpoint::OauthToken, KEY));
    rows.extend(failures(Endpoint::GenerateAccessToken, IMPERSONATION));
    operator.table(rows, IMPERSONATION).await;
}

#[tokio::test]
async fn whoever_the_operator_is_it_never_impersonates_itself() {
    let operator = Operator::start(false).await;
    let impersonated = json!({"type": "impersonated_service_account", "source_credentials": operator.key()});
    let files = [
        ("a key", operator.key(), OWNER),
        ("a federated account", impersonating(operator.external()), ROBOT),
        ("an impersonated account", impersonating(impersonated), ROBOT),
    ];
    for (case, file, itself) in files {
        let operator = Operator::start(false).await;
        operator.is(&file);
        let chain = |target: &str, delegates: &[&str]| json!({"impersonation": {"serviceAccount": target, "delegates": delegates}});
        for source in [
            chain(itself, &[]),
            chain(itself, &[CALLER]),
            chain(CALLER, &[itself]),
            chain(CALLER, &[OPERATOR, itself]),
            chain(CALLER, &[itself, OPERATOR]),
            json!({"signedJwt": {"serviceAccount": itself}}),
        ] {
            let problem =
                operator.bench.obtain(&wanted(AUDIENCE, &source)).await.map(|_| ()).expect_err(case);
            let says = format!("{itself} is the operator's own identity and is not impersonated");
            judge(case, &problem, "SelfImpersonation", Retry::OnChange, true, &says);
            assert_eq!(operator.bench.asked(), [], "{case}: {source}");
        }
    }
}

#[tokio::test]
async fn authorized_user() {
    let operator = Operator::start(true).await;
    operator.is(&operator.person());
    let mut rows = rows! {
        OauthToken: oauth(400, "invalid_grant", "Token has been expired or revoked.") => "SourceDenied", Slowly, false, "OAuth token for gcloud's user: HTTP 400 invalid_grant; sign in again: gcloud auth application-default login", [OauthToken];
        OauthToken: oauth(401, "deleted_client", "The OAuth client was deleted.") => "SourceDenied", Slowly, false, "HTTP 401 deleted_client", [OauthToken];
    };
    rows.extend(failures(Endpoint::OauthToken, KEY));
    operator.table(rows, KEY).await;
}

#[tokio::test]
async fn a_file_that_can_not_serve_is_told_before_anybody_is_asked() {
    let operator = Operator::start(false).await;
    operator.refused("missing", "CredentialsNotFound", Slowly, "adc.json can't be read").await;
    operator.is(&operator.person());
    let says =
        "is a person's (type authorized_user, as gcloud writes it), and the controller acts as no person";
    operator.refused("a person's", "CredentialsNotAllowed", Slowly, says).await;
    let key = operator.key().to_string();
    operator.write("adc.json", &key[..key.len() / 2]);
    let says = "is no JSON object with the fields of a credential file";
    operator.refused("cut off", "CredentialsNotAllowed", Slowly, says).await;
    let mut broken = operator.key();
    broken["private_key"] = json!(broken["private_key"].as_str().unwrap()[..400]);
    operator.is(&broken);
    operator
        .refused("a broken key", "CredentialsNotAllowed", Slowly, "has a private_key that is cut off")
        .await;
    operator.is(&operator.external());
    operator.write("token", "\n");
    operator.refused("an empty token", "SourceUnavailable", SOON, "its subject token is empty").await;
    std::fs::remove_file(operator.files.path().join("token")).unwrap();
    let says = "its subject token file can't be read: entity not found";
    operator.refused("no token", "SourceUnavailable", SOON, says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_is_given_up() {
    let table = [
        (
            "service_account",
            Endpoint::OauthToken,
            "OAuth token for owner@demo-project.iam.gserviceaccount.com: no answer",
        ),
        ("authorized_user", Endpoint::OauthToken, "OAuth token for gcloud's user: no answer within 15 s"),
        ("external_account", Endpoint::Sts, "token exchange for the operator: no answer within 15 s"),
        ("url", Endpoint::MetadataIdentity, "its subject token URL: no answer within 15 s"),
        (
            "impersonated_service_account",
            Endpoint::GenerateAccessToken,
            "generateAccessToken for robot@demo-project.iam.gserviceaccount.com: no answer within 15 s",
        ),
    ];
    join_all(table.map(|row| Box::pin(given_up(row)))).await;
}

async fn given_up((kind, at, says): (&str, Endpoint, &str)) {
    let operator = Operator::start(true).await;
    let key = operator.key();
    operator.is(&match kind {
        "service_account" => key,
        "authorized_user" => operator.person(),
        "external_account" => operator.external(),
        "url" => operator.external_by_url(),
        _ => impersonating(json!({"type": kind, "source_credentials": key})),
    });
    let wanted = wanted(AUDIENCE, &json!({"impersonation": {"serviceAccount": CALLER}}));
    operator.bench.google.set_fault(at, Fault::Latency(Duration::from_secs(120)));
    let problem = operator.bench.obtain(&wanted).await.map(|_| ()).expect_err(kind);
    judge(kind, &problem, "SourceUnavailable", SOON, false, says);
    operator.bench.assert_silent(kind, &problem);
    assert_eq!(operator.bench.asked().last(), Some(&at), "nothing more is asked");
    operator.bench.google.clear_faults();
    operator.bench.good(&wanted).await;
}

fn impersonating(mut file: Value) -> Value {
    file["service_account_impersonation_url"] =
        json!(format!("http://127.0.0.1:1/v1/projects/-/serviceAccounts/{ROBOT}:generateAccessToken"));
    file
}
