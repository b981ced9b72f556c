//! A simulator of Google's token APIs on the loopback, for tests, the demo and benches; never part of the product.
//!
//! ```text
//! client → serve ─ log ─ fault ─┬─ metadata ─┐
//!                               ├─ iam ──────┤ policy
//!                               ├─ sts ──────┼─ token ─ keys
//!                               ├─ oauth ────┤
//!                               ├─ identity ─┘
//!                               └─ certs ───────────── keys
//! ```
//!
//! Signatures, keys and certificates are real; time is the machine's (and can be moved ahead); every answer is worded
//! as Google words it. Each API has its own port, so that each base URL of the operator can be set by itself.

mod certs;
mod fault;
mod form;
mod iam;
mod identity_platform;
mod jwt;
mod keys;
mod log;
mod metadata;
mod oauth;
mod options;
mod policy;
mod refusal;
mod reply;
mod serve;
mod state;
mod sts;
#[cfg(test)]
mod tests;
mod tls;
mod token;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

pub use fault::{Endpoint, Fault};
pub use identity_platform::PasswordUser;
pub use keys::SigningKey;
pub use log::Request;
pub use options::{CLOUD_PLATFORM, Cluster, DEFAULT_ACCOUNT, EmailClaim, Mode, Options, Ports, User};
pub use policy::{Grant, Role};
pub use sts::Provider;

use serve::Api;
use state::{Origins, Simulator, lock};

/// A running simulator; it ends when this is dropped.
pub struct Google {
    sim: Arc<Simulator>,
    listeners: JoinSet<()>,
}

impl Google {
    /// Binds the address and ports of `options` and serves.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (address, ports) = (options.address, options.ports);
        let tls = options.tls.then(|| tls::Tls::new(address)).transpose()?;
        let scheme = if options.tls { "https" } else { "http" };
        let (metadata, metadata_origin) = serve::bind("http", address, ports.metadata).await?;
        let (iam, iam_credentials) = serve::bind(scheme, address, ports.iam_credentials).await?;
        let (sts, sts_origin) = serve::bind(scheme, address, ports.sts).await?;
        let (oauth, oauth_origin) = serve::bind(scheme, address, ports.oauth).await?;
        let (toolkit, identity_toolkit) = serve::bind(scheme, address, ports.identity_toolkit).await?;
        let (secure, secure_token) = serve::bind(scheme, address, ports.secure_token).await?;
        let origins = Origins {
            metadata: metadata_origin,
            iam_credentials,
            sts: sts_origin,
            oauth: oauth_origin,
            identity_toolkit,
            secure_token,
        };
        let sim = Arc::new(Simulator::new(options, origins, tls)?);
        let mut listeners = JoinSet::new();
        for (api, listener) in [
            (Api::Metadata, metadata),
            (Api::IamCredentials, iam),
            (Api::Sts, sts),
            (Api::Oauth, oauth),
            (Api::IdentityToolkit, toolkit),
            (Api::SecureToken, secure),
        ] {
            listeners.spawn(serve::accept(Arc::clone(&sim), api, listener));
        }
        Ok(Self { sim, listeners })
    }

    /// Ends the simulator and its connections; its ports are free afterwards.
    pub async fn stop(mut self) {
        self.listeners.shutdown().await;
    }

    /// The authority of the APIs' certificates in PEM, where they speak TLS.
    #[must_use]
    pub fn certificate_authority(&self) -> Option<&str> {
        self.sim.tls.as_ref().map(tls::Tls::authority)
    }

    /// The metadata server's origin.
    #[must_use]
    pub fn metadata_url(&self) -> &str {
        &self.sim.origins.metadata
    }

    /// The IAM Service Account Credentials API's origin.
    #[must_use]
    pub fn iam_credentials_url(&self) -> &str {
        &self.sim.origins.iam_credentials
    }

    /// The Security Token Service's origin.
    #[must_use]
    pub fn sts_url(&self) -> &str {
        &self.sim.origins.sts
    }

    /// The origin of Identity Platform's sign-in.
    #[must_use]
    pub fn identity_toolkit_url(&self) -> &str {
        &self.sim.origins.identity_toolkit
    }

    /// The origin of Identity Platform's refresh.
    #[must_use]
    pub fn secure_token_url(&self) -> &str {
        &self.sim.origins.secure_token
    }

    /// The OAuth token endpoint, the whole URL.
    #[must_use]
    pub fn oauth_token_url(&self) -> String {
        self.sim.oauth_token_url()
    }

    /// Google's keys as a JWKS, the whole URL.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        format!("{}{}", self.sim.origins.oauth, certs::JWKS_PATH)
    }

    /// Google's keys as certificates by kid, the whole URL.
    #[must_use]
    pub fn certs_v1_url(&self) -> String {
        format!("{}{}", self.sim.origins.oauth, certs::CERTS_V1_PATH)
    }

    /// The keys of a service account as a JWKS, the whole URL: they verify what `signJwt` signed.
    #[must_use]
    pub fn service_account_jwks_url(&self, email: &str) -> String {
        format!("{}{}{email}", self.sim.origins.oauth, certs::ACCOUNT_JWKS_PATH)
    }

    /// The same URL for any service account, with `{email}` in place of its e-mail.
    #[must_use]
    pub fn service_account_jwks_url_template(&self) -> String {
        self.service_account_jwks_url("{email}")
    }

    /// Identity Platform's keys as a JWKS, the whole URL.
    #[must_use]
    pub fn secure_token_jwks_url(&self) -> String {
        let (path, account) = (certs::SECURE_TOKEN_JWKS_PATH, certs::SECURE_TOKEN_ACCOUNT);
        format!("{}{path}{account}", self.sim.origins.oauth)
    }

    /// The numeric unique ID of an account: `sub` of its ID tokens.
    #[must_use]
    pub fn unique_id(&self, email: &str) -> String {
        state::unique_id(email)
    }
}

/// Keys and accounts.
impl Google {
    /// Signs with a new key from now on; the old ones stay published.
    pub fn rotate_keys(&self) -> anyhow::Result<()> {
        let key = keys::SigningKey::generate(keys::GOOGLE_COMMON_NAME, self.sim.now())?;
        lock(&self.sim.keys).rotate(key);
        Ok(())
    }

    /// Takes every key but the signing one out of publication.
    pub fn retire_old_keys(&self) {
        lock(&self.sim.keys).retire_old();
    }

    /// [`Self::rotate_keys`] for the keys of Identity Platform.
    pub fn rotate_secure_token_keys(&self) -> anyhow::Result<()> {
        let key = keys::SigningKey::generate(keys::SECURE_TOKEN_COMMON_NAME, self.sim.now())?;
        lock(self.sim.secure_token_keys()).rotate(key);
        Ok(())
    }

    /// Makes a key for a service account, which then exists; gives the text of the key file.
    pub fn create_service_account_key(&self, email: &str) -> anyhow::Result<String> {
        self.sim.create_account_key(email)
    }

    /// Deletes the keys of an account's key files: what they sign is refused from now on.
    pub fn delete_service_account_key(&self, email: &str) {
        if let Some(keys) = lock(&self.sim.account_keys).get_mut(email) {
            keys.user.clear();
        }
    }

    /// Makes the OAuth endpoint take a user's refresh token no longer.
    pub fn revoke_user(&self, refresh_token: &str) {
        lock(&self.sim.revoked_refresh_tokens).insert(refresh_token.into());
    }

    /// Makes the STS know a workload identity provider, in place of any other of the same audience: keys of a running
    /// cluster are known only once it runs.
    pub fn set_provider(&self, provider: Provider) {
        let mut providers = lock(&self.sim.providers);
        providers.retain(|other| other.audience != provider.audience);
        providers.push(provider);
    }

    /// Makes a service account exist.
    pub fn create_service_account(&self, email: &str) {
        lock(&self.sim.accounts).insert(email.into());
    }

    /// Makes a service account not exist; its keys are gone and its policy stays, as for a while at Google.
    pub fn delete_service_account(&self, email: &str) {
        lock(&self.sim.accounts).remove(email);
        lock(&self.sim.account_keys).remove(email);
    }

    /// Gives a member a role on a service account.
    pub fn grant(&self, member: &str, role: Role, service_account: &str) {
        lock(&self.sim.policy).push(Grant::new(member, role, service_account));
    }

    /// Takes the role back.
    pub fn revoke(&self, member: &str, role: Role, service_account: &str) {
        let revoked = Grant::new(member, role, service_account);
        lock(&self.sim.policy).retain(|grant| *grant != revoked);
    }
}

/// Time.
impl Google {
    /// Sets `exp - iat` of the ID tokens minted from now on.
    pub fn set_id_token_lifetime(&self, lifetime: Duration) {
        lock(&self.sim.settings).id_token_lifetime = lifetime;
    }

    /// Sets `exp - iat` of the ID tokens minted from now on for one audience, whatever it is for the others.
    pub fn set_id_token_lifetime_for(&self, audience: &str, lifetime: Duration) {
        lock(&self.sim.lifetimes).insert(audience.to_owned(), lifetime);
    }

    /// Sets the longest life of the access tokens issued from now on.
    pub fn set_access_token_lifetime(&self, lifetime: Duration) {
        lock(&self.sim.settings).access_token_lifetime = lifetime;
    }

    /// Sets `max-age` of the published keys.
    pub fn set_jwks_max_age(&self, max_age: Duration) {
        lock(&self.sim.settings).jwks_max_age = max_age;
    }

    /// Sets how long before a token's end the metadata server makes a new one; `None`: it makes one for each request.
    pub fn set_metadata_cache_margin(&self, margin: Option<Duration>) {
        lock(&self.sim.settings).metadata_cache_margin = margin;
    }

    /// Lets whole seconds pass at Google only.
    pub fn advance_clock(&self, by: Duration) {
        self.sim.advance_clock(by);
    }
}

/// Faults.
impl Google {
    /// Switches a fault on until it is cleared, in place of any other of this endpoint.
    ///
    /// # Panics
    /// Where the endpoint cannot have this fault: a test that asks for it would prove nothing.
    pub fn set_fault(&self, endpoint: Endpoint, fault: Fault) {
        self.switch_fault(endpoint, fault, None);
    }

    /// Switches a fault on for the next `times` requests.
    ///
    /// # Panics
    /// As [`Self::set_fault`].
    pub fn set_fault_times(&self, endpoint: Endpoint, fault: Fault, times: u64) {
        self.switch_fault(endpoint, fault, Some(times));
    }

    /// Switches one endpoint's fault off.
    pub fn clear_fault(&self, endpoint: Endpoint) {
        self.sim.faults.clear(endpoint);
    }

    /// Switches every fault off.
    pub fn clear_faults(&self) {
        self.sim.faults.clear_all();
    }

    fn switch_fault(&self, endpoint: Endpoint, fault: Fault, times: Option<u64>) {
        assert!(fault.fits(endpoint), "{endpoint:?} cannot have the fault {fault:?}");
        self.sim.faults.set(endpoint, fault, times);
    }
}

/// What happened.
impl Google {
    /// The requests since the start or the last clearing, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.sim.log.requests()
    }

    /// How many requests the endpoint had since the start or the last clearing, refused ones included.
    #[must_use]
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.sim.log.count(endpoint)
    }

    /// Forgets the requests, not the tokens.
    pub fn clear_requests(&self) {
        self.sim.log.clear_requests();
    }

    /// Every ID token, access token and signed JWT handed out, each once: none of them may be found in a log.
    #[must_use]
    pub fn issued_tokens(&self) -> Vec<String> {
        self.sim.log.issued_tokens()
    }

    /// How many ID tokens were signed for the endpoint; the same one out of a cache does not count again.
    #[must_use]
    pub fn minted(&self, endpoint: Endpoint) -> u64 {
        self.sim.log.count_minted(endpoint)
    }
}
