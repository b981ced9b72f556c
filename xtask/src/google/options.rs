//! What a test or the demo may choose before the simulator starts. [`Options::default`] is a Compute Engine VM of
//! `demo-project` with the service account `operator@demo-project.iam.gserviceaccount.com` attached.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::identity_platform::PasswordUser;
use super::policy::{Grant, Role};
use super::sts::Provider;

/// Everything configurable of the simulator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen: loopback, but for tests in a network of their own.
    pub address: IpAddr,
    /// Whether all but the metadata server speak TLS, by a certificate for `address`: off loopback clients insist on it.
    pub tls: bool,
    /// Ports to listen on; 0 takes a free one.
    pub ports: Ports,
    /// The project's ID.
    pub project_id: String,
    /// The project's number.
    pub project_number: u64,
    /// Whose metadata server this is.
    pub mode: Mode,
    /// The GKE cluster that the instance attributes tell of; `None`: they are absent, as on a plain VM.
    pub cluster: Option<Cluster>,
    /// `None`: the metadata server answers 404, which clients read as the default universe. Key files name it too.
    pub universe_domain: Option<String>,
    /// Scopes of the attached service account.
    pub scopes: Vec<String>,
    /// When the metadata server's ID tokens carry the e-mail.
    pub email_claim: EmailClaim,
    /// The metadata server hands the same token out again until this long before its end; `None`: never again.
    pub metadata_cache_margin: Option<Duration>,
    /// Service accounts that exist beside the attached one.
    pub service_accounts: Vec<String>,
    /// Who may do what as which service account.
    pub policy: Vec<Grant>,
    /// Workload identity providers that the STS knows.
    pub providers: Vec<Provider>,
    /// Users whose refresh tokens the OAuth endpoint knows.
    pub users: Vec<User>,
    /// The project whose Identity Platform this is: `aud` of its ID tokens.
    pub identity_project: String,
    /// API keys that Identity Platform takes.
    pub api_keys: Vec<String>,
    /// Users who sign in to Identity Platform by password. Its tenants are those that the users are in.
    pub password_users: Vec<PasswordUser>,
    /// `exp - iat` of Google-signed ID tokens.
    pub id_token_lifetime: Duration,
    /// Life of access tokens.
    pub access_token_lifetime: Duration,
    /// IAM Credentials gives the end of an access token without its nanoseconds: Google's Python library reads none.
    pub whole_seconds: bool,
    /// `max-age` of the published keys.
    pub jwks_max_age: Duration,
    /// `iss` of ID tokens.
    pub issuer: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tls: false,
            ports: Ports::default(),
            project_id: "demo-project".into(),
            project_number: 123_456_789_012,
            mode: Mode::Gce { service_account: Some(DEFAULT_ACCOUNT.into()) },
            cluster: Some(Cluster { name: "demo-cluster".into(), location: "europe-west1".into() }),
            universe_domain: Some("googleapis.com".into()),
            scopes: vec![CLOUD_PLATFORM.into()],
            email_claim: EmailClaim::Always,
            metadata_cache_margin: Some(Duration::from_secs(300)),
            service_accounts: Vec::new(),
            policy: Vec::new(),
            providers: Vec::new(),
            users: Vec::new(),
            identity_project: "demo-project".into(),
            api_keys: Vec::new(),
            password_users: Vec::new(),
            id_token_lifetime: Duration::from_secs(3600),
            access_token_lifetime: Duration::from_secs(3600),
            whole_seconds: false,
            jwks_max_age: Duration::from_secs(21_600),
            issuer: "https://accounts.google.com".into(),
        }
    }
}

impl Options {
    /// Makes a service account exist.
    #[must_use]
    pub fn service_account(mut self, email: &str) -> Self {
        self.service_accounts.push(email.into());
        self
    }

    /// Gives an IAM member (`serviceAccount:…`, `user:…`, `principal://…`, `principalSet://…`) a role on a service account.
    #[must_use]
    pub fn allow(mut self, member: &str, role: Role, service_account: &str) -> Self {
        self.policy.push(Grant::new(member, role, service_account));
        self
    }

    /// Makes the STS know a workload identity provider.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.providers.push(provider);
        self
    }

    /// Makes the OAuth endpoint know a user's refresh token.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Makes Identity Platform take an API key.
    #[must_use]
    pub fn api_key(mut self, key: &str) -> Self {
        self.api_keys.push(key.into());
        self
    }

    /// Makes Identity Platform know a user, and the tenant that the user is in.
    #[must_use]
    pub fn password_user(mut self, user: PasswordUser) -> Self {
        self.password_users.push(user);
        self
    }

    /// Answers as GKE's metadata server to a pod whose Kubernetes service account is annotated with `google_account`,
    /// which then exists and lets the pod be it.
    #[must_use]
    pub fn gke_annotated(mut self, namespace: &str, name: &str, google_account: &str) -> Self {
        let member = format!("serviceAccount:{}.svc.id.goog[{namespace}/{name}]", self.project_id);
        self.mode = Mode::GkeAnnotated {
            namespace: namespace.into(),
            name: name.into(),
            service_account: google_account.into(),
        };
        self.service_account(google_account).allow(&member, Role::WorkloadIdentityUser, google_account)
    }

    /// Answers as GKE's metadata server to a pod whose Kubernetes service account is not annotated.
    #[must_use]
    pub fn gke_not_annotated(mut self, namespace: &str, name: &str) -> Self {
        self.mode = Mode::GkeNotAnnotated { namespace: namespace.into(), name: name.into() };
        self
    }
}

/// Ports to listen on; 0 takes a free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// The metadata server.
    pub metadata: u16,
    /// The IAM Service Account Credentials API.
    pub iam_credentials: u16,
    /// The Security Token Service.
    pub sts: u16,
    /// The OAuth token endpoint and the published keys.
    pub oauth: u16,
    /// Identity Platform's sign-in.
    pub identity_toolkit: u16,
    /// Identity Platform's refresh.
    pub secure_token: u16,
}

/// Whose metadata server the simulator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A Compute Engine VM, with or without a service account attached.
    Gce {
        /// The attached account; `None`: the server answers that there is none.
        service_account: Option<String>,
    },
    /// A GKE pod whose Kubernetes service account names a Google one. IAM's policy decides whether it may be it.
    GkeAnnotated {
        /// The pod's namespace.
        namespace: String,
        /// The Kubernetes service account.
        name: String,
        /// The Google service account of the annotation.
        service_account: String,
    },
    /// A GKE pod whose Kubernetes service account names none: federated access tokens, no ID tokens.
    GkeNotAnnotated {
        /// The pod's namespace.
        namespace: String,
        /// The Kubernetes service account.
        name: String,
    },
}

/// When ID tokens from the metadata server carry `email` and `email_verified`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailClaim {
    /// In every token.
    Always,
    /// Only with `format=full`, as Compute Engine historically did.
    FullFormatOnly,
}

/// The GKE cluster that the instance attributes tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `instance/attributes/cluster-name`.
    pub name: String,
    /// `instance/attributes/cluster-location`.
    pub location: String,
}

/// A user with a refresh token, as gcloud's `authorized_user` file holds it.
#[derive(Clone)]
pub struct User {
    /// The OAuth client's ID: the `aud` of this user's ID tokens.
    pub client_id: String,
    /// The OAuth client's secret.
    pub client_secret: String,
    /// The refresh token.
    pub refresh_token: String,
    /// The user's e-mail.
    pub email: String,
    /// Granted scopes; there is an ID token only with `openid` among them.
    pub scopes: Vec<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("client_id", &self.client_id)
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

/// The service account that [`Options::default`] attaches.
pub const DEFAULT_ACCOUNT: &str = "operator@demo-project.iam.gserviceaccount.com";

/// The scope that Google's credential APIs ask for.
pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
