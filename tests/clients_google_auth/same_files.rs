//! The same credential files, given to Google's library and to `token mint`: the tokens say the same.

use std::path::{Path, PathBuf};

use axum::{Router, http::HeaderMap, http::StatusCode, routing::get};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::google::{CLOUD_PLATFORM, Google, Options, Provider, Role, User};

use super::common::{
    AUDIENCE, CALLER, OPERATOR, claims, google_flags, google_options, impersonation, member, metadata_server,
    mint, python::python,
};

const TOKENS: &str = include_str!("tokens.py");

const OWNER: &str = "owner@demo-project.iam.gserviceaccount.com";
const BETWEEN: &str = "between@demo-project.iam.gserviceaccount.com";
const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";
const PERSON: &str = "developer@example.com";
const CLIENT: &str = "764086051850-test.apps.googleusercontent.com";
const ISSUER: &str = "https://token.actions.example.com";
const POOL: &str =
    "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/providers/own";
const PRINCIPAL: &str = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/subject/operator";

/// One way to a token: how the library goes it, how we go it, and whose token it must be.
#[derive(Clone)]
struct Case {
    name: &'static str,
    theirs: Value,
    spec: Value,
    objects: Vec<Value>,
    credentials_file: Option<PathBuf>,
    email: &'static str,
}

/// Google, and files that stand for identities there.
struct Bench {
    google: Google,
    files: TempDir,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Python with google-auth"]
async fn by_the_same_file_googles_library_gets_a_token_that_says_the_same() {
    let bench = Bench::start().await;
    let key = bench.key_file(OWNER);
    let cases = [bench.own(&key), bench.operators(&key).await].concat();
    let theirs = bench.theirs(cases.iter().map(|case| &case.theirs)).await;
    for (case, theirs) in cases.iter().zip(&theirs) {
        let Case { name, spec, objects, credentials_file, email, .. } = case;
        let theirs = theirs["token"].as_str().unwrap_or_else(|| panic!("{name}: {theirs}"));
        let ours = mint::token(&bench.flags(), spec, objects, credentials_file.as_deref()).await;
        let (ours, theirs) = (without_times(&ours), without_times(theirs));
        assert_eq!(ours["email"], *email, "{name}");
        assert_eq!(ours, theirs, "{name}");
    }
    bench.google.stop().await;
}

/// Where the two part.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Python with google-auth"]
async fn where_googles_library_goes_another_way_the_difference_is_known() {
    let bench = Bench::start().await;
    // In another universe both ask IAM Credentials, and the library asks for the address as `azp`, too.
    let mut key: Value =
        serde_json::from_str(&bench.google.create_service_account_key(CALLER).unwrap()).unwrap();
    key["universe_domain"] = json!("s3nsapis.fr");
    let elsewhere = bench.file("elsewhere.json", &key);
    // The library impersonates from a key or a person's credentials only.
    let token = bench.text("token", &subject_token());
    let federated =
        bench.file("federated.json", &impersonated(&bench, &external(&bench, &json!({"file": token})), &[]));
    let impersonate = json!({"way": "impersonation", "file": federated, "serviceAccount": CALLER, "delegates": [], "audience": AUDIENCE});
    let [theirs, refused] = &bench.theirs([&key_case(&elsewhere), &impersonate].into_iter()).await[..] else {
        unreachable!()
    };

    let secret = mint::credential("key", &json!({"file": key.to_string()}));
    let flags = [bench.flags(), vec!["--universe-domain=s3nsapis.fr".to_owned()]].concat();
    let ours = mint::token(&flags, &file_source("serviceAccountKey", AUDIENCE), &[secret], None).await;
    let (mut ours, mut theirs) = (without_times(&ours), without_times(theirs["token"].as_str().unwrap()));
    let azp = |claims: &mut Value| claims.as_object_mut().unwrap().remove("azp").unwrap();
    assert_eq!((azp(&mut ours), azp(&mut theirs)), (json!(bench.google.unique_id(CALLER)), json!(CALLER)));
    assert_eq!((&ours, &ours["email"]), (&theirs, &json!(CALLER)));

    assert_eq!(
        refused["refusal"],
        "InvalidType: source credential of type external_account is not supported."
    );
    let ours = mint::token(&bench.flags(), &impersonation(), &[], Some(&federated)).await;
    assert_eq!(claims(&ours)["email"], CALLER);
    bench.google.stop().await;
}

impl Bench {
    async fn start() -> Self {
        let person = format!("user:{PERSON}");
        let options = Options { whole_seconds: true, ..google_options() };
        let options = [OWNER, BETWEEN, ROBOT].into_iter().fold(options, Options::service_account);
        let options = options
            .user(developer())
            .provider(Provider::pool(123_456_789_012, "ci", "own", ISSUER))
            .allow(&member(OWNER), Role::OpenIdTokenCreator, CALLER)
            .allow(&member(CALLER), Role::OpenIdTokenCreator, CALLER)
            .allow(&person, Role::OpenIdTokenCreator, CALLER)
            .allow(&person, Role::TokenCreator, ROBOT)
            .allow(&member(OWNER), Role::TokenCreator, BETWEEN)
            .allow(&member(BETWEEN), Role::TokenCreator, ROBOT)
            .allow(&member(ROBOT), Role::OpenIdTokenCreator, CALLER)
            .allow(PRINCIPAL, Role::WorkloadIdentityUser, CALLER)
            .allow(PRINCIPAL, Role::WorkloadIdentityUser, ROBOT);
        Self { google: Google::start(options).await.unwrap(), files: TempDir::new().unwrap() }
    }

    fn flags(&self) -> Vec<String> {
        google_flags(&self.google)
    }

    /// What the library makes of each case.
    async fn theirs<'a>(&self, cases: impl Iterator<Item = &'a Value>) -> Vec<Value> {
        let google = &self.google;
        let input = json!({
            "iamCredentials": google.iam_credentials_url(),
            "oauthToken": google.oauth_token_url(),
            "cases": cases.collect::<Vec<_>>(),
        });
        let host = google.metadata_url().trim_start_matches("http://");
        let environment =
            [("GCE_METADATA_HOST", host), ("GCE_METADATA_IP", host), ("GCE_METADATA_MTLS_MODE", "none")];
        let output = python(TOKENS, &input.to_string(), &[], &environment).await;
        serde_json::from_str(&output).unwrap()
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn file(&self, name: &str, content: &Value) -> PathBuf {
        self.text(name, &content.to_string())
    }

    fn key_file(&self, email: &str) -> PathBuf {
        self.text("key.json", &self.google.create_service_account_key(email).unwrap())
    }

    /// The binding's own credentials, and the metadata server.
    fn own(&self, key: &Path) -> Vec<Case> {
        let user = self.file("user.json", &user_file());
        let secret =
            |file: &Path| mint::credential("key", &json!({"file": std::fs::read_to_string(file).unwrap()}));
        let of_key = |name, theirs| Case {
            name,
            theirs,
            spec: file_source("serviceAccountKey", AUDIENCE),
            objects: vec![secret(key)],
            credentials_file: None,
            email: OWNER,
        };
        let of_machine = |name, theirs| Case {
            spec: metadata_server(),
            objects: Vec::new(),
            email: OPERATOR,
            ..of_key(name, theirs)
        };
        vec![
            of_key("service_account", key_case(key)),
            of_key("service_account, fetched", json!({"way": "fetch", "file": key, "audience": AUDIENCE})),
            Case {
                spec: file_source("userCredentials", CLIENT),
                objects: vec![secret(&user)],
                email: PERSON,
                ..of_key("authorized_user", json!({"way": "user_file", "file": user}))
            },
            of_machine("metadata server", json!({"way": "metadata_server", "audience": AUDIENCE})),
            of_machine("metadata server, fetched", json!({"way": "fetch", "file": "", "audience": AUDIENCE})),
        ]
    }

    /// The operator's own identity, which impersonates the caller.
    async fn operators(&self, key: &Path) -> Vec<Case> {
        let owner: Value = serde_json::from_slice(&std::fs::read(key).unwrap()).unwrap();
        let delegates = [BETWEEN].map(|email| format!("projects/-/serviceAccounts/{email}"));
        let through = self.file("through.json", &impersonated(self, &owner, &delegates));
        let by_person = self.file("by-person.json", &impersonated(self, &user_file(), &[]));
        let of = |name, file: &Path| Case {
            name,
            theirs: json!({"way": "impersonation", "file": file, "serviceAccount": CALLER, "delegates": [], "audience": AUDIENCE}),
            spec: impersonation(),
            objects: Vec::new(),
            credentials_file: Some(file.to_owned()),
            email: CALLER,
        };
        let mut cases = vec![
            of("service_account as the operator", key),
            of("authorized_user as the operator", &self.file("person.json", &user_file())),
            of("impersonated_service_account through a delegate", &through),
            of("impersonated_service_account of a person", &by_person),
        ];
        let robot = json!({"audience": AUDIENCE, "source": {"impersonation": {"serviceAccount": ROBOT, "delegates": [BETWEEN]}}});
        let delegated = json!({"way": "impersonation", "file": key, "serviceAccount": ROBOT, "delegates": delegates, "audience": AUDIENCE});
        // What the library makes of an impersonated_service_account file itself is what a binding with these delegates is to us.
        let fetched = json!({"way": "fetch", "file": through, "audience": AUDIENCE});
        for (name, theirs) in
            [("a delegate of the binding", delegated), ("a delegate of the binding, fetched", fetched)]
        {
            cases.push(Case { theirs, spec: robot.clone(), email: ROBOT, ..of(name, key) });
        }
        for (name, source) in self.subject_tokens().await {
            let file = external(self, &source);
            cases.push(of(name, &self.file(&format!("{name}.json"), &file)));
            cases.push(of(name, &self.file(&format!("{name} by account.json"), &by_account(self, &file))));
        }
        cases
    }

    /// Every place for a subject token that both know.
    async fn subject_tokens(&self) -> Vec<(&'static str, Value)> {
        let token = subject_token();
        let document = json!({"access": {}, "jwt": token}).to_string();
        let as_json = json!({"type": "json", "subject_token_field_name": "jwt"});
        let url = serve(token.clone(), document.clone()).await;
        let headers = json!({"X-Job": "deploy"});
        vec![
            ("external_account, file of text", json!({"file": self.text("token", &token)})),
            (
                "external_account, file of JSON",
                json!({"file": self.text("token.json", &document), "format": as_json}),
            ),
            (
                "external_account, URL of text",
                json!({"url": format!("{url}/text"), "headers": headers, "format": {"type": "text"}}),
            ),
            (
                "external_account, URL of JSON",
                json!({"url": format!("{url}/json"), "headers": headers, "format": as_json}),
            ),
        ]
    }
}

fn key_case(file: &Path) -> Value {
    json!({"way": "key_file", "file": file, "audience": AUDIENCE})
}

fn file_source(source: &str, audience: &str) -> Value {
    json!({"audience": audience, "source": {source: {"secretRef": {"name": "key", "key": "file"}}}})
}

fn developer() -> User {
    User {
        client_id: CLIENT.to_owned(),
        client_secret: "client-secret".to_owned(),
        refresh_token: "1//refresh-token".to_owned(),
        email: PERSON.to_owned(),
        scopes: vec!["openid".to_owned(), CLOUD_PLATFORM.to_owned()],
    }
}

/// As gcloud writes it.
fn user_file() -> Value {
    let User { client_id, client_secret, refresh_token, .. } = developer();
    json!({
        "type": "authorized_user", "account": "", "universe_domain": "googleapis.com",
        "client_id": client_id, "client_secret": client_secret, "refresh_token": refresh_token,
    })
}

/// Workload identity federation, as gcloud writes it.
fn external(bench: &Bench, source: &Value) -> Value {
    json!({
        "type": "external_account",
        "universe_domain": "googleapis.com",
        "audience": POOL,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/v1/token", bench.google.sts_url()),
        "credential_source": source,
    })
}

/// The same with an account to impersonate.
fn by_account(bench: &Bench, file: &Value) -> Value {
    let mut file = file.clone();
    file["service_account_impersonation_url"] = json!(robots_access_token(bench));
    file
}

fn impersonated(bench: &Bench, source: &Value, delegates: &[String]) -> Value {
    json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": robots_access_token(bench),
        "source_credentials": source,
        "delegates": delegates,
    })
}

fn robots_access_token(bench: &Bench) -> String {
    let origin = bench.google.iam_credentials_url();
    format!("{origin}/v1/projects/-/serviceAccounts/{ROBOT}:generateAccessToken")
}

/// A token of somebody else, whose keys the simulator does not know.
fn subject_token() -> String {
    let now = Timestamp::now().as_second();
    let header = json!({"alg": "RS256", "kid": "k"});
    let claims = json!({"iss": ISSUER, "sub": "operator", "aud": POOL, "iat": now, "exp": now + 3600});
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(&header), part(&claims))
}

/// Hands out both to who sends the header.
async fn serve(text: String, document: String) -> String {
    let known = |headers: &HeaderMap, answer: &str| match headers.get("x-job") {
        Some(job) if job == "deploy" => (StatusCode::OK, answer.to_owned()),
        _ => (StatusCode::FORBIDDEN, String::new()),
    };
    let router = Router::new()
        .route("/text", get(async move |headers: HeaderMap| known(&headers, &text)))
        .route("/json", get(async move |headers: HeaderMap| known(&headers, &document)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// The claims of a token but for when it was made; it must live for an hour.
fn without_times(token: &str) -> Value {
    let mut claims = claims(token);
    let all = claims.as_object_mut().unwrap();
    let [issued, end] = ["iat", "exp"].map(|name| all.remove(name).and_then(|time| time.as_i64()).unwrap());
    assert_eq!(end - issued, 3600);
    claims
}
