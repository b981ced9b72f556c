//! The sources against the Google simulator.

mod authorised;
mod federation;
mod http_client;
mod identity_platform;
mod impersonation;
mod metadata;
mod operator_federation;
mod operator_file;
mod secrecy;
mod service_account_key;
mod signed_jwt;
mod user_credentials;

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use xtask::google::{Endpoint, Fault, Google, Options, Role};

use super::{
    credentials::{Credentials, SecretValues, SubjectToken},
    endpoints::Endpoints,
    http::Http,
    mint::{Minted, Minter},
    operator::{AccessToken, Operator, Sources},
    *,
};
use crate::plan::{
    credential::{Account, key_missing},
    source::{Audience, SecretKey, ServiceAccountEmail, Source},
};

const AUDIENCE: &str = "https://orders.example.com";
const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";
const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";

/// A simulator, and the sources pointed at it.
struct Bench {
    google: Google,
    minter: Minter,
}

impl Bench {
    async fn start(options: Options) -> Self {
        Self::start_with(options, |_| Sources::default()).await
    }

    /// With the operator's identity from where `sources` says.
    async fn start_with(options: Options, sources: impl FnOnce(&Google) -> Sources) -> Self {
        let google = Google::start(options).await.unwrap();
        let (http, endpoints) = (Http::new().unwrap(), endpoints(&google));
        let operator = Operator::new(&http, &endpoints, sources(&google));
        Self { minter: Minter::new(&http, &endpoints, operator), google }
    }

    async fn mint(&self, source: &Source) -> Result<RawToken, Error> {
        self.mint_with(source, &NoCredentials).await.map(|minted| minted.token)
    }

    async fn mint_with(&self, source: &Source, credentials: &impl Credentials) -> Result<Minted, Error> {
        self.minter.mint(source, &Audience::parse(AUDIENCE).unwrap(), credentials, None, allowed).await
    }

    /// No text of `error` may hold anything that was issued.
    fn assert_silent(&self, error: &Error) {
        let texts = format!("{error} {error:?}");
        for token in self.google.issued_tokens() {
            assert!(!texts.contains(&token), "a token in {error:?}");
        }
        for word in ["ya29", "eyJ", "Bearer", "not what you asked for", "Quota exceeded", "IAM returned"] {
            assert!(!texts.contains(word), "{word} in {texts}");
        }
    }
}

/// The simulator's APIs.
fn endpoints(google: &Google) -> Endpoints {
    let uri = |text: &str| text.parse().unwrap();
    Endpoints {
        universe: "googleapis.com".to_owned(),
        cluster_pool: None,
        sts: uri(google.sts_url()),
        identity_toolkit: uri(google.identity_toolkit_url()),
        secure_token: uri(google.secure_token_url()),
        metadata: uri(google.metadata_url()),
        iam_credentials: uri(google.iam_credentials_url()),
        oauth_token: uri(&google.oauth_token_url()),
    }
}

/// Every use of the operator's identity.
fn allowed() -> std::future::Ready<Result<(), Problem>> {
    std::future::ready(Ok(()))
}

/// For sources without credentials of their own.
struct NoCredentials;

impl Credentials for NoCredentials {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        unreachable!("asked for {keys:?}")
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        unreachable!("asked for {name}")
    }

    async fn subject_token(&self, account: &Account, audience: &str) -> Result<SubjectToken, Problem> {
        unreachable!("asked for {account:?} and {audience}")
    }
}

/// Secrets of a namespace by name and key, all labelled, and in this state.
struct Secrets {
    values: Vec<(&'static str, &'static str, Vec<u8>)>,
    version: &'static str,
}

impl Secrets {
    fn of(values: &[(&'static str, &'static str, &str)]) -> Self {
        let bytes = |(name, key, value): &(&'static str, &'static str, &str)| {
            (*name, *key, value.as_bytes().to_vec())
        };
        Self { values: values.iter().map(bytes).collect(), version: "v1" }
    }
}

impl Credentials for Secrets {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        let value = |at: &&SecretKey| {
            let found = self.values.iter().find(|(name, key, _)| (*name, *key) == (&at.name, &at.key));
            found.map(|(_, _, value)| Zeroizing::new(value.clone())).ok_or_else(|| key_missing(at))
        };
        let values = keys.iter().map(value).collect::<Result<_, _>>()?;
        Ok(SecretValues { values, version: self.version.to_owned() })
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        unreachable!("asked for {name}")
    }

    async fn subject_token(&self, account: &Account, audience: &str) -> Result<SubjectToken, Problem> {
        unreachable!("asked for {account:?} and {audience}")
    }
}

fn secret_key(name: &str, key: &str) -> SecretKey {
    SecretKey { name: name.to_owned(), key: key.to_owned() }
}

/// The operator may have ID tokens of the caller.
fn granted() -> Options {
    Options::default().service_account(CALLER).allow(
        &format!("serviceAccount:{OPERATOR}"),
        Role::OpenIdTokenCreator,
        CALLER,
    )
}

fn impersonation(delegates: &[&str]) -> Source {
    let email = |text: &str| ServiceAccountEmail::parse(text).unwrap();
    Source::Impersonation {
        service_account: email(CALLER),
        delegates: delegates.iter().map(|d| email(d)).collect(),
    }
}

fn claims(token: &RawToken) -> serde_json::Value {
    let payload = token.expose().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// A private key of another kind, in the form that Google's keys have.
fn ec_key() -> String {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem()
}

/// Lets time pass at once. Requests run on real time: paused, their time-outs would come before their answers.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// A server on the loopback that takes connections and says nothing.
fn silent() -> (std::net::TcpListener, ::http::Uri) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    (listener, url)
}

#[test]
fn tokens_can_not_be_printed() {
    assert_eq!(format!("{:?}", RawToken::new("eyJ.secret.x".to_owned())), "[redacted]");
}

#[tokio::test]
async fn access_tokens_can_not_be_printed() {
    let token = AccessToken::new(Zeroizing::new("ya29.secret".to_owned()), 3600);
    assert_eq!(format!("{token:?}"), "[redacted]");
}

#[test]
fn every_error_has_its_reason_and_retry() {
    let text = || "x".to_owned();
    let soon = Retry::Transient { retry_after: None };
    let call = Error::Call { action: text(), cause: http::CallError::Broken };
    let denied = Error::Denied { action: text(), detail: text(), mend: text() };
    let quota = Error::Quota { action: text(), detail: text(), retry_after: Some(7) };
    let down = Error::Unavailable { action: text(), detail: text(), retry_after: Some(9) };
    let none = Error::NoServiceAccount { action: text(), detail: text(), mend: text() };
    let table = [
        (call, Reason::SourceUnavailable, soon),
        (denied, Reason::SourceDenied, Retry::Slowly),
        (quota, Reason::QuotaExceeded, Retry::Transient { retry_after: Some(7) }),
        (down, Reason::SourceUnavailable, Retry::Transient { retry_after: Some(9) }),
        (Error::NoToken { action: text() }, Reason::TokenRejected, soon),
        (none, Reason::NoServiceAccountForIdToken, Retry::Slowly),
    ];
    for (error, reason, retry) in table {
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{error:?}");
    }
    let problem = Problem::from(Error::Quota {
        action: "generateIdToken".to_owned(),
        detail: "HTTP 429".to_owned(),
        retry_after: Some(7),
    });
    assert_eq!(problem.reason, Reason::QuotaExceeded);
    assert_eq!(problem.message, "generateIdToken: HTTP 429");
    assert_eq!(problem.retry, Retry::Transient { retry_after: Some(7) });
}
