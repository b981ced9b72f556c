//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler of a node, and the forwarder to the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::configuration::{self, API_PORT, Files, NODE_ADDRESS, NODE_NAME};
use super::sandbox::Sandbox;
use crate::cluster::arguments;
use crate::cluster::certificates::Authority;
use crate::cluster::kubeconfig::{self, Access, Identity, write_private};
use crate::cluster::start::{SERVER_NAMES, ready, while_alive, write_certificates};
use crate::cluster::{ClusterOptions, DEFAULT_ISSUER};
use crate::port;
use crate::process::{Process, Program, wait_for};
use crate::tools::{Tool, Tools};

/// Starts the control plane and waits until it serves. Its certificate authority is written for the rest of the node. Gives
/// the forwarder, the one process outside of the sandbox.
pub(super) fn start(files: &Files, sandbox: &Sandbox, tools: &Tools) -> anyhow::Result<Process> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let plane = ControlPlane { files, sandbox, tools };
    plane.write_identities()?;
    in_network(sandbox, plane.start())?;
    plane.forward()
}

/// Runs `work` on a thread of its own in the node's network.
pub(super) fn in_network<T: Send>(
    sandbox: &Sandbox,
    work: impl Future<Output = anyhow::Result<T>> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            sandbox.enter_network()?;
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
        });
        worker.join().map_err(|_| anyhow::anyhow!("the thread in the node's network panicked"))?
    })
}

/// A client with an administrator's rights; works in the node's network only.
pub(super) async fn client(files: &Files) -> anyhow::Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(files.inner_kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

struct ControlPlane<'a> {
    files: &'a Files,
    sandbox: &'a Sandbox,
    tools: &'a Tools,
}

impl ControlPlane<'_> {
    /// The certificates of the API server and a kubeconfig for each program.
    fn write_identities(&self) -> anyhow::Result<()> {
        let authority = Authority::new()?;
        let files = arguments::Files::new(self.files.home());
        let names: Vec<&str> = SERVER_NAMES.into_iter().chain([NODE_ADDRESS]).collect();
        write_certificates(&files, &authority, &names)?;
        let access = Access { server: format!("https://127.0.0.1:{API_PORT}"), authority: authority.pem() };
        let outside = Access { server: format!("https://127.0.0.1:{}", port::free()?), ..access.clone() };
        let node = format!("system:node:{NODE_NAME}");
        let administrator = Identity::Certificate(authority.client("administrator", &["system:masters"])?);
        kubeconfig::write(&self.files.outer_kubeconfig(), &outside, "administrator", &administrator)?;
        kubeconfig::write(&self.files.inner_kubeconfig(), &access, "administrator", &administrator)?;
        for (program, user, groups) in [
            (arguments::CONTROLLER_MANAGER, "system:kube-controller-manager", &[][..]),
            ("kube-scheduler", "system:kube-scheduler", &[]),
            ("kubelet", node.as_str(), &["system:nodes"]),
            ("kube-proxy", "system:kube-proxy", &[]),
        ] {
            let identity = Identity::Certificate(authority.client(user, groups)?);
            kubeconfig::write(&self.files.kubeconfig_of(program), &access, user, &identity)?;
        }
        let kubelet_client = authority.client("kube-apiserver-kubelet-client", &["system:masters"])?;
        write_private(&self.files.home().join("kubelet-client.crt"), &kubelet_client.certificate)?;
        write_private(&self.files.home().join("kubelet-client.key"), &kubelet_client.key)
    }

    async fn start(&self) -> anyhow::Result<()> {
        let files = arguments::Files::new(self.files.home());
        let etcd = self.spawn(Tool::Etcd, arguments::etcd(self.files.home(), &[]))?;
        let options = ClusterOptions {
            controller_manager: true,
            api_server_args: configuration::api_server(self.files),
            ..ClusterOptions::default()
        };
        let flags = arguments::api_server(&files, API_PORT, DEFAULT_ISSUER, &options);
        let mut api_server = self.spawn(Tool::KubeApiserver, flags)?;
        let client = client(self.files).await?;
        while_alive(&mut api_server, wait_for("/readyz", START_LIMIT, async || ready(&client).await)).await?;
        let flags =
            [arguments::controller_manager(&files), configuration::controller_manager(self.files)].concat();
        let mut manager = self.spawn(Tool::KubeControllerManager, flags)?;
        let scheduler = self.spawn(Tool::KubeScheduler, configuration::scheduler(self.files))?;
        let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(client, "default");
        let worked = wait_for("the default ServiceAccount", START_LIMIT, async || {
            accounts.get("default").await.map(drop).map_err(Into::into)
        });
        while_alive(&mut manager, worked).await?;
        for process in [etcd, api_server, manager, scheduler] {
            process.leave_running();
        }
        Ok(())
    }

    fn spawn(&self, tool: Tool, flags: Vec<String>) -> anyhow::Result<Process> {
        let program = self.sandbox.program(self.files, self.tools.path(tool)).args(flags);
        program.spawn(&self.files.log(tool.name()))
    }

    /// Lets kubectl outside the node's network reach the API server, through a loopback port.
    fn forward(&self) -> anyhow::Result<Process> {
        let port = port_of(&self.files.outer_kubeconfig())?;
        let inside =
            format!("EXEC:nsenter --net={} socat STDIO TCP\\:127.0.0.1\\:{API_PORT}", self.sandbox.network());
        Program::new("socat")
            .arg(format!("-lf{}", self.files.log("forwarder").display()))
            .arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"))
            .arg(inside)
            .detached()
            .spawn(&self.files.log("forwarder"))
    }
}

fn port_of(kubeconfig: &Path) -> anyhow::Result<u16> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let server = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref()?.server.as_deref());
    let port = server.and_then(|server| server.rsplit_once(':')?.1.parse().ok());
    port.context("the kubeconfig names no port")
}

const START_LIMIT: Duration = Duration::from_secs(60);
