//! A real node on this machine: the whole control plane, kubelet, containerd, runc and kube-proxy, in namespaces of its own.
//!
//! ```text
//! sandbox (network, mount and process namespace) ─┬─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//!                                                 └─ containerd ─ runc, kubelet, kube-proxy
//! ```
//!
//! # Guarantees
//! - Everything runs below one process, the sandbox's first. With it go all other processes, every mount, the network and
//!   its rules: [`Node::end`] needs no help of what it ends, also after a crash.
//! - Nothing outside sees the node's network; one forwarder on loopback lets kubectl reach the API server.
//!
//! # Caveats
//! - Needs root on Debian or Ubuntu, whose packages it installs, and setgid-free use of cgroups v1 or v2.
//! - There is no cluster DNS and no way out of the network: Services are reached by address, and from the API server.

pub mod command;
mod configuration;
mod control_plane;
mod images;
mod sandbox;
mod worker;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cluster::home::{self, COMPLETE, Home};
use crate::image::Archive;
use crate::packages;
use crate::progress::Step;
use crate::tools::{Tool, Tools, cache_directory};
use configuration::Files;
use sandbox::Sandbox;

pub use configuration::{NODE_ADDRESS, NODE_NAME};

/// The variable that names the node that tests are to use.
pub const NODE_VARIABLE: &str = "IDTOKEN_NODE";

/// A node by its name, running or not. It outlives the process that started it.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    files: Files,
}

impl Node {
    /// The node of that name, which need not exist.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        home::require_plain("node", name)?;
        Ok(Self { name: name.to_owned(), files: Files::new(&nodes_directory()?.join(name)) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kubeconfig of an administrator, for any process of this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.files.outer_kubeconfig()
    }

    /// The kubeconfig of an administrator, for whoever has [entered](Self::enter) the node's network.
    #[must_use]
    pub fn inner_kubeconfig(&self) -> PathBuf {
        self.files.inner_kubeconfig()
    }

    /// Where the programs' logs are: `<program>.log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.files.home()
    }

    /// Whether it was started to the end and is still there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.files.home().join(COMPLETE).exists() && Sandbox::find(&self.files).is_some()
    }

    /// Moves this thread, and those that it starts from now on, into the node's network: there the pods, Services and
    /// [`NODE_ADDRESS`] are, and what listens there is reached by pods.
    pub fn enter(&self) -> anyhow::Result<()> {
        let sandbox = Sandbox::find(&self.files)
            .with_context(|| format!("the node {:?} is not running: cargo xtask node up", self.name))?;
        sandbox.enter_network()
    }

    /// Starts it, with the images loaded, and waits until the node is Ready. What is left of an earlier one is removed.
    pub fn start(&self) -> anyhow::Result<()> {
        let tools = prepare()?;
        let images = images::build()?;
        let _lock = lock()?;
        self.end_locked()?;
        let mut home = Home::detached(self.files.home().to_owned())?;
        let step = Step::start(format!("starting the node {:?}", self.name), "about 20 seconds");
        if let Err(error) = self.start_all(&tools, &images) {
            sandbox::end(&self.files)?;
            return Err(error);
        }
        home.keep()?;
        step.done();
        Ok(())
    }

    fn start_all(&self, tools: &Tools, images: &[Archive]) -> anyhow::Result<()> {
        let sandbox = Sandbox::start(&self.files)?;
        let forwarder = control_plane::start(&self.files, &sandbox, tools)?;
        worker::start(&self.files, &sandbox, tools)?;
        images::load(&self.files, &sandbox, images)?;
        sandbox.leave_running();
        forwarder.leave_running();
        Ok(())
    }

    /// Ends it and removes all of it. Returns whether there was anything to do.
    pub fn end(&self) -> anyhow::Result<bool> {
        let _lock = lock()?;
        self.end_locked()
    }

    fn end_locked(&self) -> anyhow::Result<bool> {
        let there = self.files.home().exists();
        sandbox::end(&self.files)?;
        home::remove(self.files.home())?;
        Ok(there)
    }
}

/// Every node that has a directory, running or not, by name.
pub fn all() -> anyhow::Result<Vec<Node>> {
    let mut nodes: Vec<Node> = fs::read_dir(nodes_directory()?)?
        .filter_map(|entry| Node::named(entry.ok()?.file_name().to_str()?).ok())
        .filter(|node| node.files.home().is_dir())
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

/// Finds or makes the programs and packages. May take many minutes the first time.
fn prepare() -> anyhow::Result<Tools> {
    packages::ensure(&PACKAGES)?;
    Tools::find(&TOOLS)
}

fn nodes_directory() -> anyhow::Result<PathBuf> {
    let directory = cache_directory()?.join("nodes");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// Keeps other commands from starting and ending nodes, until the result is dropped.
fn lock() -> anyhow::Result<File> {
    let lock =
        File::create(nodes_directory()?.join(".lock")).context("cannot create the lock of the nodes")?;
    lock.lock().context("cannot lock the nodes")?;
    Ok(lock)
}

/// What Debian has of a node. socat is the forwarder.
const PACKAGES: [&str; 9] = [
    "containerd",
    "runc",
    "containernetworking-plugins",
    "nftables",
    "iptables",
    "conntrack",
    "iproute2",
    "util-linux",
    "socat",
];

const TOOLS: [Tool; 7] = [
    Tool::Etcd,
    Tool::KubeApiserver,
    Tool::KubeControllerManager,
    Tool::KubeScheduler,
    Tool::Kubelet,
    Tool::KubeProxy,
    Tool::Kubectl,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", "..", "a/b", "A", ".lock", &"a".repeat(41)] {
            assert!(Node::named(bad).is_err(), "{bad}");
        }
        assert!(Node::named("test-1").unwrap().kubeconfig().ends_with("nodes/test-1/kubeconfig"));
    }
}
