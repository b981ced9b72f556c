//! A real Kubernetes control plane on loopback: etcd, kube-apiserver and, on request, kube-controller-manager.
//!
//! # Guarantees
//! - Fresh certificates and free ports for each: any number of clusters run side by side.
//! - [`Cluster::stop`] and `Drop` (also while a panic unwinds) end every process and remove every file. After SIGKILL to
//!   this process the programs end too (see [`crate::process`]), and the next start removes the files.
//!
//! # Caveats
//! - There is no node and no scheduler: pods are admitted and stored, but they do not run.
//! - Without the controller manager nothing collects garbage, namespaces do not finish deleting, the cluster roles `view`,
//!   `edit` and `admin` are empty, and the `ServiceAccount` admission plugin is off, because nothing creates the `default`
//!   accounts that it insists on. `TokenRequest` works.
//! - The garbage collector learns of new kinds (CRDs) only every 30 s.

pub(crate) mod arguments;
pub(crate) mod certificates;
pub mod command;
mod detached;
pub(crate) mod home;
pub(crate) mod kubeconfig;
pub(crate) mod start;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;

use crate::process::{Process, wait_for};
use certificates::Authority;
use home::Home;
use kubeconfig::{Access, Identity};

/// What a cluster is to be like.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Also run kube-controller-manager: garbage collection, namespaces, `ServiceAccounts`, Deployments, Jobs.
    pub controller_manager: bool,
    /// The issuer of `ServiceAccount` tokens. Default: [`DEFAULT_ISSUER`].
    pub service_account_issuer: Option<String>,
    /// Further flags of kube-apiserver.
    pub api_server_args: Vec<String>,
    /// Further flags of etcd.
    pub etcd_args: Vec<String>,
}

/// A program of the control plane that can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store.
    Etcd,
    /// What everybody talks to.
    ApiServer,
}

/// The issuer of `ServiceAccount` tokens, unless another is asked for.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A running cluster.
pub struct Cluster {
    /// In the order of their start: they are ended in the opposite order, etcd last.
    processes: Vec<Process>,
    access: Access,
    config: kube::Config,
    issuer: String,
    authority: Authority,
    /// Counts the kubeconfigs made, to name them.
    kubeconfigs: AtomicU32,
    // The last field: the files go when the processes have gone.
    home: Home,
}

impl Cluster {
    /// Starts a cluster in a directory of its own and waits until it serves. Finds or makes its programs first.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        start::start(Home::temporary()?, options).await
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.home.kubeconfig()
    }

    /// A client with an administrator's rights, for the runtime that it is made in.
    ///
    /// # Panics
    /// When called outside a Tokio runtime.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::try_from(self.config.clone())
            .expect("the same configuration made a client at the start")
    }

    /// Where the API server listens: `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.access.server
    }

    /// The certificate authority of the API server, in PEM.
    #[must_use]
    pub fn certificate_authority(&self) -> &str {
        &self.access.authority
    }

    /// The issuer of this cluster's `ServiceAccount` tokens. Its keys are at `/openid/v1/jwks` of the API server.
    #[must_use]
    pub fn service_account_issuer(&self) -> &str {
        &self.issuer
    }

    /// A kubeconfig with a fresh client certificate for a user in at most two groups.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        let identity = Identity::Certificate(self.authority.client(user, groups)?);
        self.write_kubeconfig(user, &identity)
    }

    /// A kubeconfig with a token of a `ServiceAccount`, good for a day. The account is created if there is none.
    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<PathBuf> {
        let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(self.client(), namespace);
        let account = ServiceAccount {
            metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Default::default()
        };
        match accounts.create(&PostParams::default(), &account).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(error).context("cannot create the ServiceAccount"),
        }
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..Default::default() },
            ..Default::default()
        };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        let token = answer.status.context("a TokenRequest without a status")?.token;
        self.write_kubeconfig(&format!("{namespace}-{name}"), &Identity::Token(token))
    }

    /// What the API server has logged so far.
    #[must_use]
    pub fn api_server_log(&self) -> String {
        self.processes
            .iter()
            .find(|process| process.name() == arguments::API_SERVER)
            .map(Process::log)
            .unwrap_or_default()
    }

    /// The directory with everything that belongs to this cluster: logs, certificates, data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// The process ids, in the order of their start: etcd, kube-apiserver, kube-controller-manager.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// The process of one part, to stop, kill and restart it: data and port stay what they are.
    ///
    /// # Panics
    /// Never: every cluster has these parts.
    pub fn part(&mut self, part: Part) -> &mut Process {
        let name = match part {
            Part::Etcd => arguments::ETCD,
            Part::ApiServer => arguments::API_SERVER,
        };
        self.processes.iter_mut().find(|process| process.name() == name).expect("every cluster has it")
    }

    /// Waits until the API server says that it is ready.
    pub async fn ready(&self, within: Duration) -> anyhow::Result<()> {
        let client = kube::Client::try_from(self.config.clone())?;
        wait_for("/readyz", within, async || start::ready(&client).await).await
    }

    /// Where etcd listens: a socket for its HTTP API.
    #[must_use]
    pub fn etcd_socket(&self) -> PathBuf {
        arguments::Files::new(self.home.path()).etcd_socket()
    }

    /// Ends the cluster in good order and removes its files.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        // An API server whose etcd is gone does not end on SIGTERM: etcd goes last.
        while let Some(process) = self.processes.pop() {
            process.stop(GRACE).await?;
        }
        self.home.remove()
    }

    /// Lets the cluster outlive this process. Only one that was started so can.
    fn leave_running(mut self) -> anyhow::Result<()> {
        self.home.keep()?;
        for process in self.processes.drain(..) {
            process.leave_running();
        }
        Ok(())
    }

    fn write_kubeconfig(&self, user: &str, identity: &Identity) -> anyhow::Result<PathBuf> {
        let plain: String = user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.home.path().join(format!("kubeconfig-{number}-{plain}"));
        kubeconfig::write(&path, &self.access, user, identity)?;
        Ok(path)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("server", &self.access.server)
            .field("directory", &self.home.path())
            .finish_non_exhaustive()
    }
}

const GRACE: Duration = Duration::from_secs(5);
