//! The simulator's state, shared by its listeners: settings, accounts, policy, keys, access tokens and what the
//! metadata server has in its cache. Each lock is held for one look or one change, never across an await.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};

use super::fault::Faults;
use super::identity_platform::Users;
use super::keys::{GOOGLE_COMMON_NAME, KeyRing, SECURE_TOKEN_COMMON_NAME, SigningKey};
use super::log::Log;
use super::options::{Mode, Options};
use super::policy::{Grant, Identity, Permission, permits};
use super::sts::Provider;
use super::tls::Tls;
use super::token::AccessToken;
use crate::clock;

/// Everything behind the listeners.
pub(super) struct Simulator {
    pub(super) options: Options,
    pub(super) origins: Origins,
    pub(super) tls: Option<Tls>,
    pub(super) faults: Faults,
    pub(super) log: Log,
    pub(super) keys: Mutex<KeyRing>,
    /// Identity Platform's keys; made when first asked for, since few tests need them.
    secure_token_keys: OnceLock<Mutex<KeyRing>>,
    pub(super) users: Users,
    pub(super) settings: Mutex<Settings>,
    /// Lives of ID tokens by audience, where they differ.
    pub(super) lifetimes: Mutex<HashMap<String, Duration>>,
    pub(super) accounts: Mutex<BTreeSet<String>>,
    pub(super) policy: Mutex<Vec<Grant>>,
    pub(super) providers: Mutex<Vec<Provider>>,
    /// Keys by service account: made by IAM for `signJwt`, or by the account's owner for key files.
    pub(super) account_keys: Mutex<HashMap<String, AccountKeys>>,
    /// Users' refresh tokens that the OAuth endpoint takes no longer.
    pub(super) revoked_refresh_tokens: Mutex<BTreeSet<String>>,
    pub(super) access_tokens: Mutex<HashMap<String, AccessToken>>,
    /// The metadata server's cache: what was asked, the answer, and when it ends.
    pub(super) metadata_cache: Mutex<HashMap<String, (String, Timestamp)>>,
    clock_offset: AtomicI64,
}

/// `http://ADDRESS:PORT` of each API.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    pub(super) metadata: String,
    pub(super) iam_credentials: String,
    pub(super) sts: String,
    pub(super) oauth: String,
    pub(super) identity_toolkit: String,
    pub(super) secure_token: String,
}

/// What can be changed while the simulator runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) id_token_lifetime: Duration,
    pub(super) access_token_lifetime: Duration,
    pub(super) jwks_max_age: Duration,
    pub(super) metadata_cache_margin: Option<Duration>,
}

/// The keys of one service account.
#[derive(Default)]
pub(super) struct AccountKeys {
    /// Held by IAM; signs for `signJwt`.
    pub(super) system: Option<SigningKey>,
    /// Downloaded as key files.
    pub(super) user: Vec<SigningKey>,
}

impl AccountKeys {
    pub(super) fn all(&self) -> impl Iterator<Item = &SigningKey> {
        self.system.iter().chain(&self.user)
    }
}

impl Simulator {
    pub(super) fn new(options: Options, origins: Origins, tls: Option<Tls>) -> anyhow::Result<Self> {
        let first_key = SigningKey::generate(GOOGLE_COMMON_NAME, clock::now())?;
        let settings = Settings {
            id_token_lifetime: options.id_token_lifetime,
            access_token_lifetime: options.access_token_lifetime,
            jwks_max_age: options.jwks_max_age,
            metadata_cache_margin: options.metadata_cache_margin,
        };
        let mut accounts: BTreeSet<_> = options.service_accounts.iter().cloned().collect();
        if let Mode::Gce { service_account: Some(email) } = &options.mode {
            accounts.insert(email.clone());
        }
        Ok(Self {
            origins,
            tls,
            faults: Faults::default(),
            log: Log::default(),
            keys: Mutex::new(KeyRing::new(first_key)),
            secure_token_keys: OnceLock::new(),
            users: Users::new(&options),
            settings: Mutex::new(settings),
            lifetimes: Mutex::default(),
            accounts: Mutex::new(accounts),
            policy: Mutex::new(options.policy.clone()),
            providers: Mutex::new(options.providers.clone()),
            account_keys: Mutex::default(),
            revoked_refresh_tokens: Mutex::default(),
            access_tokens: Mutex::default(),
            metadata_cache: Mutex::default(),
            clock_offset: AtomicI64::new(0),
            options,
        })
    }

    /// The simulator's wall clock.
    pub(super) fn now(&self) -> Timestamp {
        clock::now() + SignedDuration::from_secs(self.clock_offset.load(Ordering::SeqCst))
    }

    /// Lets time pass here and nowhere else.
    pub(super) fn advance_clock(&self, by: Duration) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        self.clock_offset.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Identity Platform's keys.
    pub(super) fn secure_token_keys(&self) -> &Mutex<KeyRing> {
        self.secure_token_keys.get_or_init(|| {
            let key = SigningKey::generate(SECURE_TOKEN_COMMON_NAME, self.now());
            Mutex::new(KeyRing::new(key.expect("a second key is made like the first")))
        })
    }

    pub(super) fn settings(&self) -> Settings {
        *lock(&self.settings)
    }

    /// The e-mail of a service account given by e-mail or unique ID, whether or not it exists.
    pub(super) fn account_email(&self, email_or_id: &str) -> String {
        if email_or_id.contains('@') {
            return email_or_id.into(); // a bench has thousands of accounts to compare with
        }
        let known = lock(&self.accounts).iter().find(|email| unique_id(email) == email_or_id).cloned();
        known.unwrap_or_else(|| email_or_id.into())
    }

    pub(super) fn account_exists(&self, email: &str) -> bool {
        lock(&self.accounts).contains(email)
    }

    pub(super) fn permits(&self, identity: &Identity, permission: Permission, service_account: &str) -> bool {
        permits(&lock(&self.policy), identity, permission, service_account)
    }
}

/// The numeric unique ID of an account: 21 digits, always the same for the same e-mail.
pub(super) fn unique_id(email: &str) -> String {
    let hash = digest::digest(&digest::SHA256, email.as_bytes());
    let number = hash.as_ref().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("1{number:020}")
}

/// The guard, also after another thread panicked: a failed test's state is still worth showing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::unique_id;

    #[test]
    fn unique_ids_are_21_digits_and_stable() {
        let id = unique_id("operator@demo-project.iam.gserviceaccount.com");
        assert_eq!(id.len(), 21);
        assert!(id.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(id, unique_id("operator@demo-project.iam.gserviceaccount.com"));
        assert_ne!(id, unique_id("caller@demo-project.iam.gserviceaccount.com"));
    }
}
