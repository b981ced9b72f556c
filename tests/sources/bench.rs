//! A source pointed at the simulator, by the one path that the controller and `token mint` take.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use idtoken_operator::{
    api::{IdTokenBinding, IdTokenBindingStatus},
    controller::obtain::obtain,
    plan::{
        Problem, Retry,
        credential::{Account, account_missing, key_missing},
        secret::Record,
        source::SecretKey,
        status::{Report, next},
        validate::{Wanted, validate},
    },
    token::{
        RawToken,
        credentials::{Credentials, SecretValues, SubjectToken},
        endpoints::Endpoints,
        http::Http,
        mint::Minter,
        operator::{Operator, Sources},
    },
    verify::{
        Verifier,
        jwks::{Jwks, KeyUrls},
    },
};
use jiff::Timestamp;
use serde_json::{Value, json};
use xtask::google::{Endpoint, Fault, Google, Options, Role};
use zeroize::Zeroizing;

pub(crate) const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";
pub(crate) const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
pub(crate) const AUDIENCE: &str = "https://orders-abc-uc.a.run.app";

/// Again after a while, doubling from one second.
pub(crate) const SOON: Retry = Retry::Transient { retry_after: None };

/// Not before so many seconds.
pub(crate) const fn after(seconds: u64) -> Retry {
    Retry::Transient { retry_after: Some(seconds) }
}

/// IAM Credentials is switched off in the caller's project.
pub(crate) const fn disabled() -> Fault {
    Fault::RpcError { status: 403, code: "PERMISSION_DENIED", reason: Some("SERVICE_DISABLED") }
}

/// IAM Credentials does not understand the request.
pub(crate) const fn invalid_argument() -> Fault {
    Fault::RpcError { status: 400, code: "INVALID_ARGUMENT", reason: None }
}

/// A simulator, and what asks it.
pub(crate) struct Bench {
    pub(crate) google: Google,
    pub(crate) minter: Minter,
    verifier: Verifier,
    pub(crate) credentials: Kept,
}

/// One line of a table: what goes wrong where, and what comes of it.
pub(crate) struct Row {
    pub(crate) at: Endpoint,
    pub(crate) fault: Fault,
    pub(crate) reason: &'static str,
    pub(crate) retry: Retry,
    /// Whether nothing changes until somebody acts, from the first moment on.
    pub(crate) stalled: bool,
    /// Part of the message.
    pub(crate) says: &'static str,
    /// All that Google was asked, in this order.
    pub(crate) asked: &'static [Endpoint],
}

/// The operator may be the caller, in every way.
pub(crate) fn options() -> Options {
    let operator = format!("serviceAccount:{OPERATOR}");
    Options { metadata_cache_margin: None, ..Options::default() }
        .service_account(CALLER)
        .allow(&operator, Role::OpenIdTokenCreator, CALLER)
        .allow(&operator, Role::TokenCreator, CALLER)
}

pub(crate) fn wanted(audience: &str, source: &Value) -> Wanted {
    let binding: IdTokenBinding = serde_json::from_value(json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
        "metadata": {"name": "orders", "namespace": "shop"}, "spec": {"audience": audience, "source": source},
    }))
    .unwrap();
    validate(&binding).unwrap()
}

impl Bench {
    pub(crate) async fn start(options: Options) -> Self {
        Self::start_with(options, |_| {}).await
    }

    /// With endpoints that `change` has changed.
    pub(crate) async fn start_with(options: Options, change: impl FnOnce(&mut Endpoints)) -> Self {
        Self::start_all(options, change, Sources::default()).await
    }

    /// With an operator whose own identity comes from `sources`.
    pub(crate) async fn start_as(options: Options, sources: Sources) -> Self {
        Self::start_all(options, |_| {}, sources).await
    }

    async fn start_all(options: Options, change: impl FnOnce(&mut Endpoints), sources: Sources) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let google = Google::start(options).await.unwrap();
        let uri = |text: &str| text.parse().unwrap();
        let mut endpoints = Endpoints {
            universe: "googleapis.com".to_owned(),
            cluster_pool: None,
            metadata: uri(google.metadata_url()),
            iam_credentials: uri(google.iam_credentials_url()),
            sts: uri(google.sts_url()),
            identity_toolkit: uri(google.identity_toolkit_url()),
            secure_token: uri(google.secure_token_url()),
            oauth_token: uri(&google.oauth_token_url()),
        };
        change(&mut endpoints);
        let http = Http::new().unwrap();
        let operator = Operator::new(&http, &endpoints, sources);
        let keys = KeyUrls {
            google: uri(&google.jwks_url()),
            identity_platform: uri(&google.secure_token_jwks_url()),
            service_account: google.service_account_jwks_url_template(),
        };
        Self {
            minter: Minter::new(&http, &endpoints, operator),
            verifier: Verifier::new(Jwks::new(http, keys), true),
            credentials: Kept::default(),
            google,
        }
    }

    pub(crate) async fn obtain(&self, wanted: &Wanted) -> Result<(RawToken, Record), Problem> {
        self.obtain_if(wanted, || Ok(())).await
    }

    /// The same, where `authorise` allows it.
    pub(crate) async fn obtain_if(
        &self,
        wanted: &Wanted,
        authorise: impl Fn() -> Result<(), Problem> + Sync,
    ) -> Result<(RawToken, Record), Problem> {
        let obtained =
            obtain(&self.minter, &self.verifier, wanted, &self.credentials, async || authorise()).await?;
        Ok((obtained.token.clone(), obtained.record(wanted)))
    }

    /// A token that bears looking at; its claims.
    pub(crate) async fn good(&self, wanted: &Wanted) -> Value {
        let (token, record) = self.obtain(wanted).await.unwrap();
        assert!(record.signature_checked);
        claims(&token)
    }

    /// What Google was asked since the last time, but for keys.
    pub(crate) fn asked(&self) -> Vec<Endpoint> {
        let keys = [Endpoint::Jwks, Endpoint::CertsV1, Endpoint::ServiceAccountKeys];
        let all = self.google.requests().into_iter().map(|request| request.endpoint);
        let asked = all.filter(|endpoint| !keys.contains(endpoint)).collect();
        self.google.clear_requests();
        asked
    }

    /// Goes through `rows`; before each `arrange` makes the bench as it should be.
    pub(crate) async fn table(&self, wanted: &Wanted, rows: Vec<Row>, arrange: impl Fn(&Self)) {
        for row in rows {
            arrange(self);
            self.google.clear_requests();
            self.google.set_fault(row.at, row.fault.clone());
            let case = format!("{:?} {:?}", row.at, row.fault);
            let problem = self.obtain(wanted).await.map(|_| ()).expect_err(&case);
            self.google.clear_faults();
            assert_eq!(self.asked(), row.asked, "{case}");
            judge(&case, &problem, row.reason, row.retry, row.stalled, row.says);
            self.assert_silent(&case, &problem);
        }
    }

    /// A key file of the account, whose key then stands in no message.
    pub(crate) fn new_key(&self, email: &str) -> String {
        let file = self.google.create_service_account_key(email).unwrap();
        let key: Value = serde_json::from_str(&file).unwrap();
        let lines = key["private_key"].as_str().unwrap().lines().filter(|line| line.len() > 40);
        let lines: Vec<_> = lines.collect();
        assert!(lines.len() > 20, "a key of 2048 bits has {} lines", lines.len());
        for line in lines {
            self.credentials.plant(line);
        }
        file
    }

    /// No message may hold anything that was issued, nor any planted secret.
    pub(crate) fn assert_silent(&self, case: &str, problem: &Problem) {
        let text = format!("{problem:?}");
        let (issued, planted) = (self.google.issued_tokens(), self.credentials.planted.lock().unwrap());
        assert!(!issued.is_empty() || !planted.is_empty(), "{case}: nothing is looked for");
        assert!(
            self.credentials.is_empty() || !planted.is_empty(),
            "{case}: no secret of a Secret is looked for"
        );
        for secret in issued.iter().chain(planted.iter()) {
            assert!(secret.len() >= 8, "{case}: too short to be looked for");
            // A part of it is as bad.
            let start: String = secret.chars().take(24).collect();
            assert!(!text.contains(&start), "{case}: {text}");
        }
        for word in ["eyJ", "ya29", "Bearer", "BEGIN", "not what you asked for"] {
            assert!(!text.contains(word), "{case}: {word} in {text}");
        }
    }
}

/// The reason, the time of the next try and the conditions of a binding with this problem: without a token, and while one is good.
pub(crate) fn judge(case: &str, problem: &Problem, reason: &str, retry: Retry, stalled: bool, says: &str) {
    assert_eq!((problem.reason.as_str(), problem.retry), (reason, retry), "{case}: {}", problem.message);
    assert!(problem.message.contains(says), "{case}: {:?} does not say {says:?}", problem.message);
    assert!(problem.message.len() < 1024, "{case}: {}", problem.message);
    let stalled = if stalled { format!("Stalled=True/{reason}") } else { format!("Stalled=False/{reason}") };
    let without = [format!("Ready=False/{reason}"), format!("Degraded=False/{reason}"), stalled.clone()];
    assert_eq!(conditions(problem, None), without, "{case}");
    let stalled = stalled.replace(&format!("False/{reason}"), "False/TokenFresh");
    let with = ["Ready=True/TokenFresh".to_owned(), format!("Degraded=True/{reason}"), stalled];
    assert_eq!(conditions(problem, Some(&record())), with, "{case}");
}

fn conditions(problem: &Problem, record: Option<&Record>) -> Vec<String> {
    let report = Report {
        generation: Some(1),
        source: "source",
        secret_name: "orders-idtoken",
        secret_resource_version: None,
        record,
        is_good: record.is_some(),
        problem: Some(problem),
        suspended: false,
        failing_since: None,
        next_refresh: None,
        attempts: None,
        not_granted_since: None,
    };
    let status = next(&IdTokenBindingStatus::default(), report, "2026-01-01T10:00:00Z".parse().unwrap());
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

fn record() -> Record {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    Record {
        issuer: "https://accounts.google.com".to_owned(),
        identity: None,
        life: idtoken_operator::plan::refresh::Lifetime {
            issued: at("2026-01-01T09:30:00Z"),
            expires: at("2026-01-01T10:30:00Z"),
        },
        spec_hash: String::new(),
        token_sha256: String::new(),
        refresh_handled: None,
        credential: None,
        granted: None,
        signature_checked: true,
    }
}

pub(crate) fn claims(token: &RawToken) -> Value {
    let payload = token.expose().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// A row for each refusal that every one of Google's APIs knows.
#[macro_export]
macro_rules! rows {
    ($($at:ident: $fault:expr => $reason:literal, $retry:expr, $stalled:literal, $says:literal, [$($asked:ident),*];)*) => {
        vec![$($crate::bench::Row {
            at: Endpoint::$at,
            fault: $fault,
            reason: $reason,
            retry: $retry,
            stalled: $stalled,
            says: $says,
            asked: &[$(Endpoint::$asked),*],
        }),*]
    };
}

/// A binding's own credentials, as a test keeps them.
#[derive(Default)]
pub(crate) struct Kept {
    secrets: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    accounts: Mutex<BTreeMap<String, Account>>,
    version: AtomicU64,
    /// What no message may hold.
    planted: Mutex<Vec<String>>,
    /// Why there is no subject token.
    refusal: Mutex<Option<Problem>>,
    /// Of the subject tokens.
    pub(crate) issuer: Mutex<String>,
    /// How many subject tokens were made, and for which audience the last.
    pub(crate) subject_tokens: Mutex<Vec<String>>,
}

impl Kept {
    /// Puts a value under a key of a Secret: another version of all.
    pub(crate) fn put(&self, secret: &str, key: &str, value: impl AsRef<[u8]>) {
        let at = (secret.to_owned(), key.to_owned());
        self.secrets.lock().unwrap().insert(at, value.as_ref().to_vec());
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a key of a Secret away.
    pub(crate) fn remove(&self, secret: &str, key: &str) {
        self.secrets.lock().unwrap().remove(&(secret.to_owned(), key.to_owned()));
    }

    /// Another version of the same values.
    pub(crate) fn touch(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes an account of the namespace `shop`.
    pub(crate) fn account(&self, name: &str, uid: &str, annotated: Option<&str>) {
        let account = Account {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            annotated: annotated.map(str::to_owned),
            is_principal: false,
        };
        self.accounts.lock().unwrap().insert(name.to_owned(), account);
    }

    /// Whoever asks for a subject token gets this problem.
    pub(crate) fn refuse_subject_tokens(&self, problem: Option<Problem>) {
        *self.refusal.lock().unwrap() = problem;
    }

    /// Names a secret, which then stands in no message.
    pub(crate) fn plant(&self, secret: &str) {
        self.planted.lock().unwrap().push(secret.to_owned());
    }

    fn is_empty(&self) -> bool {
        self.secrets.lock().unwrap().is_empty()
    }
}

impl Credentials for Kept {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        let secrets = self.secrets.lock().unwrap();
        let value = |at: &&SecretKey| {
            let value = secrets.get(&(at.name.clone(), at.key.clone())).ok_or_else(|| key_missing(at))?;
            Ok(Zeroizing::new(value.clone()))
        };
        let values = keys.iter().map(value).collect::<Result<_, Problem>>()?;
        Ok(SecretValues { values, version: self.version.load(Ordering::SeqCst).to_string() })
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        self.accounts.lock().unwrap().get(name).cloned().ok_or_else(|| account_missing("shop", name))
    }

    async fn subject_token(&self, account: &Account, audience: &str) -> Result<SubjectToken, Problem> {
        if let Some(problem) = self.refusal.lock().unwrap().clone() {
            return Err(problem);
        }
        self.subject_tokens.lock().unwrap().push(audience.to_owned());
        let now = Timestamp::now().as_second();
        let Account { namespace, name, .. } = account;
        let header = json!({"alg": "RS256", "kid": "cluster"});
        let claims = json!({
            "iss": *self.issuer.lock().unwrap(), "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": [audience], "iat": now, "exp": now + 3600,
        });
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        Ok(SubjectToken::new(format!("{}.{}.c2lnbmF0dXJl", part(&header), part(&claims))))
    }
}
