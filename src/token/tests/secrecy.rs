//! Whatever is planted in a credential, a request or an answer: no Debug and no message shows it.

use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, StatusCode, header};
use axum::{Router, extract::State, response::IntoResponse as _};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::source::ProviderName,
    token::{
        credential_file::{CredentialFile, parse_key, parse_user},
        http::{Reply, Request},
        shared::Keyed,
    },
};

const CASES: u32 = 200;

/// Tokens, keys and passwords as they look: never a word of one case.
fn secret() -> impl Strategy<Value = String> {
    let prefix = prop_oneof![
        Just("ya29."),
        Just("eyJhbGciOi."),
        Just("1//0e"),
        Just("AMf-vB"),
        Just("AIzaSy"),
        Just("pass Word-")
    ];
    (prefix, "[A-Za-z0-9._~+/-]{16,60}").prop_map(|(prefix, rest)| format!("{prefix}{rest}"))
}

fn debug(value: &impl fmt::Debug) -> String {
    format!("{value:?} {value:#?}")
}

/// A file of each type with `secret` wherever one belongs, and where none does.
fn files(secret: &str) -> [Value; 5] {
    let external = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/x", "client_secret": secret,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "credential_source": {"url": "https://tokens.example.com/", "headers": {"Authorization": secret}},
    });
    let user = json!({"type": "authorized_user", "client_id": "a", "client_secret": secret, "refresh_token": secret});
    let url = format!("https://x/serviceAccounts/{CALLER}:generateAccessToken");
    [
        json!({"type": "service_account", "client_email": CALLER, "private_key_id": secret, "private_key": secret}),
        json!({"type": "impersonated_service_account", "service_account_impersonation_url": url, "source_credentials": user}),
        json!({"type": secret, "private_key": secret}),
        external,
        user,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn nothing_that_holds_a_credential_prints_it(secret in secret()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _clock = runtime.enter(); // access tokens have a time
        let minted = Minted { token: RawToken::new(secret.clone()), email: None, credential: None };
        let values = SecretValues { values: vec![secret.clone().into_bytes().into()], version: "v".to_owned() };
        let keyed = Keyed::<String, Mutex<String>>::new();
        *keyed.of(&secret).lock().unwrap() = secret.clone();
        let uri = format!("https://x/y?key={}", crate::token::endpoints::encode(&secret));
        let request = Request::post_form(uri.parse().unwrap(), &[("password", &secret)]).bearer(&secret).unwrap();
        let reply = Reply {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(header::SET_COOKIE, secret.parse().unwrap())]),
            body: secret.clone().into_bytes().into(),
        };
        let mut texts = vec![
            debug(&RawToken::new(secret.clone())),
            debug(&SubjectToken::new(secret.clone())),
            debug(&AccessToken::new(Zeroizing::new(secret.clone()), 3600)),
            debug(&Request::post_json("https://x/y".parse().unwrap(), &json!({"password": secret}))),
            debug(&minted),
            debug(&values),
            debug(&keyed),
            debug(&request),
            debug(&reply),
        ];
        for file in files(&secret) {
            let text = file.to_string();
            texts.push(debug(&CredentialFile::parse(text.as_bytes())));
            texts.push(debug(&parse_key(text.as_bytes())));
            texts.push(debug(&parse_user(text.as_bytes())));
            texts.push(debug(&CredentialFile::parse(&text.as_bytes()[..text.len() / 2])));
        }
        for text in texts {
            prop_assert!(!text.contains(&secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_parsed_key_does_not_print_itself() {
    let google = Google::start(Options::default()).await.unwrap();
    let text = google.create_service_account_key(CALLER).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let printed = debug(&CredentialFile::parse(text.as_bytes()).unwrap());
    assert!(
        printed.starts_with("ServiceAccount(Key(caller@demo-project.iam.gserviceaccount.com, [redacted]))")
    );
    let pem = file["private_key"].as_str().unwrap();
    for secret in pem.lines().chain(file["private_key_id"].as_str()) {
        assert!(!printed.contains(secret), "{secret}");
    }
}

/// What one path answers; every other answers well.
#[derive(Clone, Debug, Default)]
struct Answer {
    path: &'static str,
    status: u16,
    body: Vec<u8>,
}

type Shown = Arc<Mutex<Answer>>;

async fn answer(State(shown): State<Shown>, uri: ::http::Uri) -> axum::response::Response {
    let Answer { path, status, body } = shown.lock().unwrap().clone();
    if uri.path().ends_with(path) {
        return (StatusCode::from_u16(status).unwrap(), body).into_response();
    }
    let end = crate::clock::now() + jiff::SignedDuration::from_hours(1);
    let body = match uri.path().rsplit(['/', ':']).next().unwrap_or_default() {
        "email" => CALLER.to_owned(),
        "project-id" | "cluster-name" | "cluster-location" => "name".to_owned(),
        "generateAccessToken" => json!({"accessToken": "ya29.x", "expireTime": end}).to_string(),
        "subject" => "a.b.c".to_owned(),
        "signInWithPassword" => json!({"idToken": "a.b.c", "refreshToken": "r"}).to_string(),
        _ => json!({"access_token": "ya29.x", "expires_in": 1, "id_token": "a.b.c", "token": "a.b.c"})
            .to_string(),
    };
    body.into_response()
}

/// A body with `secret` in it, in one of the shapes that answers have.
fn body() -> impl Strategy<Value = (String, Vec<u8>)> {
    let shape = prop_oneof![
        Just("S"),
        Just("<html><title>S</title>"),
        Just(r#"{"error":"S"}"#),
        Just(r#"{"error":"invalid_grant","error_description":"S","error_subtype":"S","error_uri":"S"}"#),
        Just(r#"{"error":"S","error_description":"invalid_grant"}"#),
        Just(
            r#"{"error":{"code":400,"message":"S","status":"S","details":[{"reason":"S"}],"errors":[{"message":"S"}]}}"#
        ),
        Just(r#"{"error":{"code":400,"message":"S : S"}}"#),
        Just(r#"{"error":{"code":400,"message":"INVALID_PASSWORD : S"}}"#),
        Just(r#"{"error":{"code":403,"message":"API key S","details":[{"reason":"API_KEY_INVALID"}]}}"#),
        Just(r#"{"error":{"status":["S"]}}"#),
        Just(
            r#"{"token":["S"],"id_token":{"S":1},"idToken":["S"],"access_token":{"S":"S"},"signedJwt":["S"]}"#
        ),
        Just(r#"{"id_token":"S"#),
        Just(r#"["S","S"]"#),
        Just("\u{0}\u{1}S\u{7f}"),
        Just("Your Kubernetes service account (S/S) is not annotated with a target Google service account S"),
    ];
    (secret(), shape).prop_map(|(secret, shape)| {
        let body = shape.replace('S', &secret).into_bytes();
        (secret, body)
    })
}

/// Which path to spoil, and the source that asks it.
fn sources() -> Vec<(&'static str, Source)> {
    let account = || ServiceAccountEmail::parse(CALLER).unwrap();
    let federated = |provider: Option<&str>| Source::KubernetesServiceAccount {
        name: "app".to_owned(),
        google_service_account: None,
        provider: provider.map(|name| ProviderName::parse(name).unwrap()),
    };
    let elsewhere = Some("projects/1/locations/global/workloadIdentityPools/pool/providers/name");
    vec![
        ("/identity", Source::MetadataServer),
        ("/email", Source::MetadataServer),
        ("/subject", impersonation(&[])),
        ("/sts/v1/token", impersonation(&[])),
        (":generateAccessToken", impersonation(&[])),
        (":generateIdToken", impersonation(&[])),
        (":signJwt", Source::SignedJwt { service_account: account() }),
        ("/project-id", federated(None)),
        ("/cluster-name", federated(None)),
        ("/sts/v1/token", federated(elsewhere)),
        (":generateIdToken", federated(elsewhere)),
        ("/oauth/token", Source::ServiceAccountKey { file: secret_key("key", "key.json") }),
        ("/oauth/token", Source::UserCredentials { file: secret_key("user", "adc.json") }),
        ("/v1/accounts:signInWithPassword", user_source()),
        ("/refresh/v1/token", user_source()),
    ]
}

fn user_source() -> Source {
    let at = |key| secret_key("login", key);
    Source::IdentityPlatform {
        tenant: None,
        api_key: at("apiKey"),
        email: at("email"),
        password: at("password"),
    }
}

/// Everything that a source may ask for.
struct Everything(Secrets);

impl Credentials for Everything {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        self.0.secrets(keys).await
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        Ok(Account {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: "u1".to_owned(),
            annotated: Some(CALLER.to_owned()),
            is_principal: false,
        })
    }

    async fn subject_token(&self, _: &Account, _: &str) -> Result<SubjectToken, Problem> {
        Ok(SubjectToken::new("a.b.c".to_owned()))
    }
}

/// Sources whose every API is one server, which answers what `shown` says.
struct World {
    http: Http,
    endpoints: Endpoints,
    sources: Sources,
    credentials: Everything,
    shown: Shown,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let shown = Shown::default();
        let (url, _) = http_client::serve(Router::new().fallback(answer).with_state(shown.clone())).await;
        let at = |path: &str| format!("{url}{path}").parse().unwrap();
        let endpoints = Endpoints {
            universe: "googleapis.com".to_owned(),
            cluster_pool: None,
            sts: at("sts"),
            identity_toolkit: at(""),
            secure_token: at("refresh"),
            metadata: at(""),
            iam_credentials: at(""),
            oauth_token: at("oauth/token"),
        };
        let directory = tempfile::TempDir::new().unwrap();
        let file = json!({
            "type": "external_account", "audience": "//iam.googleapis.com/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "credential_source": {"url": format!("{url}subject")},
            "service_account_impersonation_url": format!("https://x/serviceAccounts/{OPERATOR}:generateAccessToken"),
        });
        let path = directory.path().join("adc.json");
        std::fs::write(&path, file.to_string()).unwrap();
        let google = Google::start(Options::default()).await.unwrap();
        let key = google.create_service_account_key(CALLER).unwrap();
        let user =
            json!({"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"});
        let credentials = Secrets::of(&[
            ("key", "key.json", &key),
            ("user", "adc.json", &user.to_string()),
            ("login", "apiKey", "k"),
            ("login", "email", "batch@example.com"),
            ("login", "password", "p"),
        ]);
        let sources = Sources { credentials_file: Some(path), ..Sources::default() };
        let (http, credentials) = (Http::new().unwrap(), Everything(credentials));
        Self { http, endpoints, sources, credentials, shown, _directory: directory }
    }

    /// What a fresh process makes of the answer. The second time, so that there is something to refresh.
    async fn outcomes(&self, source: &Source, spoilt: Answer) -> Vec<Result<Minted, Error>> {
        let operator = Operator::new(&self.http, &self.endpoints, self.sources.clone());
        let minter = Minter::new(&self.http, &self.endpoints, operator);
        let audience = Audience::parse(AUDIENCE).unwrap();
        let mut outcomes = Vec::new();
        if spoilt.path.starts_with("/refresh") {
            *self.shown.lock().unwrap() = Answer { path: "none", ..Answer::default() };
            outcomes.push(minter.mint(source, &audience, &self.credentials, None, allowed).await);
        }
        *self.shown.lock().unwrap() = spoilt;
        outcomes.push(minter.mint(source, &audience, &self.credentials, None, allowed).await);
        outcomes
    }
}

#[test]
fn no_answer_of_google_shows_in_an_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start());
    let statuses = [200, 201, 302, 400, 401, 403, 404, 408, 409, 429, 500, 503];
    for (path, source) in sources() {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(CASES));
        let result =
            runner.run(&(body(), prop::sample::select(statuses.to_vec())), |((secret, body), status)| {
                let outcomes = runtime.block_on(world.outcomes(&source, Answer { path, status, body }));
                for outcome in outcomes {
                    let text = match outcome {
                        Ok(minted) => debug(&minted.token),
                        Err(error) => {
                            let problem = Problem::from(error.clone());
                            format!("{error} {} {}", debug(&error), debug(&problem))
                        }
                    };
                    prop_assert!(!text.contains(&secret), "{text}");
                }
                Ok(())
            });
        result.unwrap_or_else(|why| panic!("{path} for {}: {why}", source.label()));
        let refused = Answer { path, status: 503, body: Vec::new() };
        let outcomes = runtime.block_on(world.outcomes(&source, refused));
        assert!(outcomes.last().unwrap().is_err(), "{path} is asked by {}", source.label());
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn not_even_a_trace_holds_a_credential() {
    const KEY: &str = "AIzaSyTest-0123456789abcdefghijklmnopqr";
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    tracing::trace!("the log is read");
    let user = xtask::google::PasswordUser::new("batch@example.com", "correct-horse");
    let bench = Bench::start(granted().api_key(KEY).password_user(user)).await;
    let login = [
        ("login", "apiKey", KEY),
        ("login", "email", "batch@example.com"),
        ("login", "password", "correct-horse"),
    ];
    let credentials = Secrets::of(&login);
    for _ in 0..2 {
        bench.mint_with(&user_source(), &credentials).await.unwrap();
    }
    bench.mint(&impersonation(&[])).await.unwrap();
    bench.google.set_fault(Endpoint::SecureToken, Fault::IdentityError("QUOTA_EXCEEDED : correct-horse"));
    bench.mint_with(&user_source(), &credentials).await.unwrap_err();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("the log is read"), "{text}");
    let issued = bench.google.issued_tokens();
    // Two tokens of a user within one second are the same: that, the refresh token, the access token, and the caller's.
    assert!(issued.len() >= 4, "{}", issued.len());
    for secret in issued.iter().map(String::as_str).chain([KEY, "correct-horse"]) {
        assert!(!text.contains(secret), "{text}");
    }
}
