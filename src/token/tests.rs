//! The sources against the Google simulator.

mod http_client;
mod impersonation;
mod key_file;
mod metadata;

use std::{path::PathBuf, time::Duration};

use ::http::Uri;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use xtask::google::{Endpoint, Fault, Google, Options, Role};

use super::{
    credentials::{Credentials, SecretValues, SubjectToken},
    endpoints::Endpoints,
    http::Http,
    mint::Minter,
    operator::{AccessToken, Operator},
    *,
};
use crate::plan::{
    credential::Account,
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
        Self::start_with(options, |_| None).await
    }

    /// With the key file that `key_file` makes as the operator's identity.
    async fn start_with(options: Options, key_file: impl FnOnce(&Google) -> Option<PathBuf>) -> Self {
        let google = Google::start(options).await.unwrap();
        let key_file = key_file(&google);
        let http = Http::new().unwrap();
        let nowhere: Uri = "http://127.0.0.1:1".parse().unwrap();
        let endpoints = Endpoints {
            universe: "googleapis.com".to_owned(),
            cluster_pool: None,
            sts: google.sts_url().parse().unwrap(),
            identity_toolkit: nowhere.clone(),
            secure_token: nowhere,
            metadata: google.metadata_url().parse().unwrap(),
            iam_credentials: google.iam_credentials_url().parse().unwrap(),
            oauth_token: google.oauth_token_url().parse().unwrap(),
        };
        let (metadata, oauth) = (endpoints.metadata.clone(), endpoints.oauth_token.clone());
        let operator = Operator::new(http.clone(), metadata, oauth, key_file);
        Self { minter: Minter::new(&http, &endpoints, operator), google }
    }

    async fn mint(&self, source: &Source) -> Result<RawToken, Error> {
        self.minter.mint(source, &Audience::parse(AUDIENCE).unwrap(), &NoCredentials).await.map(|m| m.token)
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
