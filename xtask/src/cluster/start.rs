//! The start of a cluster: certificates, etcd, the API server, and the controller manager if asked for.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::arguments::{self, API_SERVER, CONTROLLER_MANAGER, ETCD, Files};
use super::certificates::{self, Authority};
use super::home::Home;
use super::kubeconfig::{self, Access, Identity, write_private};
use super::{Cluster, ClusterOptions, DEFAULT_ISSUER};
use crate::port;
use crate::process::{Process, Program, wait_for};
use crate::tools::{Tool, Tools};

/// Starts a cluster in `home`.
pub(super) async fn start(home: Home, options: ClusterOptions) -> anyhow::Result<Cluster> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let start = Start::new(home, options).await?;
    let etcd = start.etcd().await?;
    let (api_server, access, config) = start.api_server().await?;
    let mut processes = vec![etcd, api_server];
    if start.options.controller_manager {
        processes.push(start.controller_manager(&access, &config).await?);
    }
    Ok(Cluster {
        processes,
        access,
        config,
        issuer: start.issuer,
        authority: start.authority,
        kubeconfigs: AtomicU32::new(0),
        home: start.home,
    })
}

/// What the steps of a start share.
struct Start {
    options: ClusterOptions,
    issuer: String,
    tools: Tools,
    files: Files,
    authority: Authority,
    home: Home,
}

impl Start {
    async fn new(home: Home, options: ClusterOptions) -> anyhow::Result<Self> {
        let mut wanted = vec![Tool::KubeApiserver, Tool::Etcd];
        if options.controller_manager {
            wanted.push(Tool::KubeControllerManager);
        }
        let tools = tokio::task::spawn_blocking(move || Tools::find(&wanted)).await??;
        let issuer = options.service_account_issuer.clone().unwrap_or_else(|| DEFAULT_ISSUER.to_owned());
        let files = Files::new(home.path());
        let authority = Authority::new()?;
        write_certificates(&files, &authority, &SERVER_NAMES)?;
        Ok(Self { options, issuer, tools, files, authority, home })
    }

    async fn etcd(&self) -> anyhow::Result<Process> {
        let mut etcd =
            self.spawn(Tool::Etcd, ETCD, arguments::etcd(self.home.path(), &self.options.etcd_args))?;
        let socket = self.files.etcd_socket();
        let opened = wait_for("etcd", START_LIMIT, async || {
            ensure!(socket.exists(), "it has not opened {}", socket.display());
            Ok(())
        });
        while_alive(&mut etcd, opened).await?;
        Ok(etcd)
    }

    /// Between finding a free port and using it somebody else may take it: then another one is tried.
    async fn api_server(&self) -> anyhow::Result<(Process, Access, kube::Config)> {
        for _ in 1..PORT_ATTEMPTS {
            match self.api_server_on(port::free()?).await {
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                result => return result,
            }
        }
        self.api_server_on(port::free()?).await
    }

    async fn api_server_on(&self, port: u16) -> anyhow::Result<(Process, Access, kube::Config)> {
        let access = Access { server: format!("https://127.0.0.1:{port}"), authority: self.authority.pem() };
        let config = self.administrator(&access).await?;
        let arguments = arguments::api_server(&self.files, port, &self.issuer, &self.options);
        let mut process = self.spawn(Tool::KubeApiserver, API_SERVER, arguments)?;
        let client = kube::Client::try_from(config.clone())?;
        let ready = wait_for("/readyz", START_LIMIT, async || ready(&client).await);
        while_alive(&mut process, ready).await?;
        Ok((process, access, config))
    }

    async fn controller_manager(&self, access: &Access, config: &kube::Config) -> anyhow::Result<Process> {
        let credential = self.authority.client("system:kube-controller-manager", &[])?;
        let path = self.files.controller_manager_kubeconfig();
        kubeconfig::write(&path, access, CONTROLLER_MANAGER, &Identity::Certificate(credential))?;
        let arguments = arguments::controller_manager(&self.files);
        let mut process = self.spawn(Tool::KubeControllerManager, CONTROLLER_MANAGER, arguments)?;
        let accounts: kube::Api<ServiceAccount> =
            kube::Api::namespaced(kube::Client::try_from(config.clone())?, "default");
        let worked = wait_for("the default ServiceAccount", START_LIMIT, async || {
            accounts.get("default").await.map(drop).map_err(Into::into)
        });
        while_alive(&mut process, worked).await?;
        Ok(process)
    }

    /// The configuration of an administrator, who gets a kubeconfig too.
    async fn administrator(&self, access: &Access) -> anyhow::Result<kube::Config> {
        let credential = self.authority.client("administrator", &["system:masters"])?;
        let path = self.home.kubeconfig();
        kubeconfig::write(path, access, "administrator", &Identity::Certificate(credential))?;
        let kubeconfig = Kubeconfig::read_from(path)?;
        Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
    }

    fn spawn(&self, tool: Tool, name: &str, arguments: Vec<String>) -> anyhow::Result<Process> {
        let program = Program::new(self.tools.path(tool)).args(arguments).current_dir(self.home.path());
        let program = if self.home.is_detached() { program.detached() } else { program };
        let process = program.spawn(&self.files.log(name))?;
        self.home.note_pid(name, process.pid())?;
        Ok(process)
    }
}

/// Writes the authority, the API server's certificate for `names`, and the key of `ServiceAccount` tokens.
pub(crate) fn write_certificates(files: &Files, authority: &Authority, names: &[&str]) -> anyhow::Result<()> {
    let server = authority.server(names)?;
    let (private, public) = certificates::service_account_key()?;
    write_private(&files.authority(), &authority.pem())?;
    write_private(&files.server_certificate(), &server.certificate)?;
    write_private(&files.server_key(), &server.key)?;
    write_private(&files.service_account_key(), &private)?;
    write_private(&files.service_account_public_key(), &public)
}

/// Does `work`, unless `process` ends first: then its last lines are the error.
pub(crate) async fn while_alive<T>(
    process: &mut Process,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let result = tokio::select! {
        result = work => result,
        status = process.wait() => Err(process.ended_early(status?)),
    };
    result.with_context(|| format!("{} did not start", process.name()))
}

/// Whether the API server says that it is ready.
pub(crate) async fn ready(client: &kube::Client) -> anyhow::Result<()> {
    let answer = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
    if answer != "ok" {
        bail!("it answers {answer}");
    }
    Ok(())
}

const START_LIMIT: Duration = Duration::from_secs(60);
const PORT_ATTEMPTS: u32 = 3;

/// The names and addresses under which the API server may be called.
pub(crate) const SERVER_NAMES: [&str; 7] = [
    "127.0.0.1",
    "10.96.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
