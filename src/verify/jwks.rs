//! The issuers' public keys: cached as their answer allows, fetched by one request at a time.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{
    HeaderMap, Uri,
    header::{AGE, CACHE_CONTROL},
};
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::expect::Issuer;
use crate::token::http::{Http, Request};

/// Keys by issuer.
#[derive(Debug)]
pub struct Jwks {
    http: Http,
    urls: KeyUrls,
    google: KeySource,
    identity_platform: KeySource,
    /// By e-mail address; made when first asked for; all are forgotten when there are [`MAX_ACCOUNTS`].
    accounts: std::sync::Mutex<HashMap<String, Arc<KeySource>>>,
}

/// Where each issuer publishes its keys.
#[derive(Clone, Debug)]
pub struct KeyUrls {
    /// Google's, as a JWKS.
    pub google: Uri,
    /// Identity Platform's, the same for all projects.
    pub identity_platform: Uri,
    /// A service account's: the text of a URL with `{email}` in it.
    pub service_account: String,
}

/// What is known of a key.
#[derive(Debug)]
pub enum KeyLookup {
    /// It is published.
    Found(Arc<PublicKey>),
    /// The issuer's keys are known, and it is not among them.
    UnknownKid,
    /// The issuer's keys can't be had at all.
    Unavailable,
}

/// An RSA public key of at least 2048 bits, for RS256.
#[derive(Debug)]
pub struct PublicKey(RsaPublicKeyComponents<Vec<u8>>);

impl Jwks {
    /// `urls`: where each issuer publishes its keys.
    #[must_use]
    pub fn new(http: Http, urls: KeyUrls) -> Self {
        Self {
            http,
            google: KeySource::new(urls.google.clone()),
            identity_platform: KeySource::new(urls.identity_platform.clone()),
            accounts: std::sync::Mutex::default(),
            urls,
        }
    }

    /// The key `kid` of `issuer`. Fetches when the cache is old, and at most once a minute for each `kid` it lacks. While a
    /// fetch fails, old keys serve on.
    pub async fn key(&self, issuer: Issuer<'_>, kid: &str) -> KeyLookup {
        match issuer {
            Issuer::Google => self.google.key(&self.http, kid).await,
            Issuer::IdentityPlatform(_) => self.identity_platform.key(&self.http, kid).await,
            Issuer::ServiceAccount(email) => match self.account(email) {
                Some(account) => account.key(&self.http, kid).await,
                None => KeyLookup::Unavailable,
            },
        }
    }

    fn account(&self, email: &str) -> Option<Arc<KeySource>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = accounts.get(email) {
            return Some(known.clone());
        }
        let url = self.urls.service_account.replace("{email}", &crate::token::endpoints::encode(email));
        if accounts.len() >= MAX_ACCOUNTS {
            accounts.clear(); // they are fetched again, one request each
        }
        let source = Arc::new(KeySource::new(url.parse().ok()?));
        accounts.insert(email.to_owned(), source.clone());
        Some(source)
    }
}

impl PublicKey {
    /// Whether `signature` over `message` is this key's, by RSASSA-PKCS1-v1_5 with SHA-256.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
    }
}

#[derive(Debug)]
struct KeySource {
    url: Uri,
    keys: ArcSwapOption<KeySet>,
    /// Held across the fetch, on purpose: whoever comes meanwhile waits for that one answer. The fetch is bounded by its
    /// time-out.
    fetches: Mutex<Fetches>,
}

/// When keys were last asked for.
#[derive(Debug, Default)]
struct Fetches {
    last: Option<Instant>,
    /// By unknown `kid`; entries older than the pause are dropped.
    unknown: HashMap<String, Instant>,
}

#[derive(Debug)]
struct KeySet {
    keys: HashMap<String, Arc<PublicKey>>,
    fresh_until: Instant,
}

impl KeySet {
    fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }
}

impl KeySource {
    fn new(url: Uri) -> Self {
        Self { url, keys: ArcSwapOption::empty(), fetches: Mutex::default() }
    }

    async fn key(&self, http: &Http, kid: &str) -> KeyLookup {
        if let Some(key) = self.fresh().and_then(|set| set.keys.get(kid).cloned()) {
            return KeyLookup::Found(key);
        }
        self.refresh(http, kid).await;
        match self.keys.load_full() {
            None => KeyLookup::Unavailable,
            Some(set) => match set.keys.get(kid) {
                Some(key) => KeyLookup::Found(key.clone()),
                None if set.is_fresh() => KeyLookup::UnknownKid,
                // Keys that are too old to be asked say nothing about a newer one.
                None => KeyLookup::Unavailable,
            },
        }
    }

    fn fresh(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full().filter(|set| set.is_fresh())
    }

    async fn refresh(&self, http: &Http, kid: &str) {
        let mut fetches = self.fetches.lock().await;
        let fresh = self.fresh();
        if fresh.as_ref().is_some_and(|set| set.keys.contains_key(kid)) {
            return; // somebody else fetched it while we waited
        }
        if !fetches.permit(fresh.is_some().then_some(kid), Instant::now()) {
            return;
        }
        self.fetch(http).await;
        // Pauses begin with the answer: whoever waited through a time-out shares it, instead of beginning one more.
        fetches.last = Some(Instant::now());
    }

    async fn fetch(&self, http: &Http) {
        match timeout(FETCH_TIMEOUT, http.call(Request::get(self.url.clone()))).await {
            Ok(Ok(reply)) if reply.status.is_success() => match parse(&reply.body) {
                Some(keys) => {
                    let fresh_until = Instant::now() + freshness(&reply.headers);
                    self.keys.store(Some(Arc::new(KeySet { keys, fresh_until })));
                }
                None => {
                    tracing::warn!(url = %self.url, "the issuer's keys are no usable JWKS; the old ones serve on");
                }
            },
            Ok(Ok(reply)) => {
                tracing::warn!(url = %self.url, status = reply.status.as_u16(), "the issuer's keys can't be fetched");
            }
            Ok(Err(error)) => tracing::warn!(url = %self.url, %error, "the issuer's keys can't be fetched"),
            Err(_) => tracing::warn!(url = %self.url, "the issuer's keys can't be fetched: time-out"),
        }
    }
}

impl Fetches {
    /// Whether to ask now; for the sake of an unknown `kid`, once a minute.
    fn permit(&mut self, unknown: Option<&str>, now: Instant) -> bool {
        if self.last.is_some_and(|at| now.duration_since(at) < ANY_PAUSE) {
            return false;
        }
        if let Some(kid) = unknown {
            self.unknown.retain(|_, at| now.duration_since(*at) < UNKNOWN_KID_PAUSE);
            if self.unknown.contains_key(kid) || self.unknown.len() >= MAX_UNKNOWN_KIDS {
                return false;
            }
            self.unknown.insert(kid.to_owned(), now);
        }
        self.last = Some(now);
        true
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    use_: Option<String>,
    n: String,
    e: String,
}

/// The usable keys of a JWKS; unusable ones are ignored. `None`: not one is usable.
fn parse(body: &[u8]) -> Option<HashMap<String, Arc<PublicKey>>> {
    let set: JwkSet = serde_json::from_slice(body).ok()?;
    let keys: HashMap<_, _> = set.keys.into_iter().filter_map(usable).collect();
    (!keys.is_empty()).then_some(keys)
}

fn usable(jwk: serde_json::Value) -> Option<(String, Arc<PublicKey>)> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let (n, e) = (decode(&jwk.n)?, decode(&jwk.e)?);
    let bits = n
        .iter()
        .position(|b| *b != 0)
        .map_or(0, |zeros| (n.len() - zeros) * 8 - usize::try_from(n[zeros].leading_zeros()).unwrap_or(0));
    let fits = jwk.kty == "RSA"
        && jwk.alg.is_none_or(|alg| alg == "RS256")
        && jwk.use_.is_none_or(|use_| use_ == "sig")
        && (2048..=8192).contains(&bits)
        && !jwk.kid.is_empty();
    fits.then(|| (jwk.kid, Arc::new(PublicKey(RsaPublicKeyComponents { n, e }))))
}

/// How long an answer may be kept: `max-age` less `Age`, between one minute and one day; 5 minutes when it does not say.
fn freshness(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok());
    let max_age = directives.flat_map(|v| v.split(',')).find_map(|directive| {
        let (name, seconds) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| seconds.parse::<u64>().ok())?
    });
    let age = headers.get(AGE).and_then(|v| v.to_str().ok()?.trim().parse::<u64>().ok()).unwrap_or(0);
    let seconds = max_age.map_or(300, |max| max.saturating_sub(age));
    Duration::from_secs(seconds.clamp(60, 24 * 3600))
}

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const UNKNOWN_KID_PAUSE: Duration = Duration::from_secs(60);
const MAX_UNKNOWN_KIDS: usize = 64;
const MAX_ACCOUNTS: usize = 1024;
/// Between any two fetches.
const ANY_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
