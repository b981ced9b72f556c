//! What a tier needs, found or installed into the cache.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::Tier;
use crate::node::{NODE_VARIABLE, Node};
use crate::progress::Step;
use crate::tools::{Tool, Tools, cache_directory};

/// Variables for the tests.
pub(super) type Environment = Vec<(&'static str, OsString)>;

/// What a tier's tests have for as long as this lives.
pub(super) struct Provision {
    pub(super) environment: Environment,
    node: Option<Node>,
}

impl Drop for Provision {
    fn drop(&mut self) {
        if let Some(node) = &self.node
            && let Err(error) = node.end()
        {
            eprintln!("the node of the tests did not end: {error:#}");
        }
    }
}

/// Sees to everything that the tests of a tier need. The error says why they can't run here.
pub(super) fn of(tier: Tier) -> anyhow::Result<Provision> {
    if tier == Tier::Node {
        return node();
    }
    Ok(Provision { environment: programs(tier)?, node: None })
}

fn programs(tier: Tier) -> anyhow::Result<Environment> {
    match tier {
        Tier::Unit => Ok(Environment::new()),
        Tier::Api => {
            Tools::find(&CLUSTER)?;
            Tools::find(&crate::chart::TOOLS)?;
            Ok(Environment::new())
        }
        Tier::Clients => {
            // Some give the libraries what a whole operator has published.
            Tools::find(&CLUSTER)?;
            Ok(vec![("IDTOKEN_PYTHON", python()?.into())])
        }
        Tier::Node => {
            Tools::find(&[Tool::Kubectl, Tool::Helm])?;
            Ok(vec![(NODE_VARIABLE, NODE.into())])
        }
    }
}

/// A node for all tests of the tier; it starts in seconds, but its images take minutes the first time.
fn node() -> anyhow::Result<Provision> {
    ensure!(is_root()?, "a node needs root");
    let environment = programs(Tier::Node)?;
    let node = Node::named(NODE)?;
    node.start()?;
    Ok(Provision { environment, node: Some(node) })
}

fn is_root() -> anyhow::Result<bool> {
    let output = Command::new("id").arg("-u").output().context("there is no id")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

/// A virtual environment with Google's libraries, made once for each set of versions.
fn python() -> anyhow::Result<PathBuf> {
    let hash = BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, REQUIREMENTS.as_bytes()).as_ref()[..9]);
    let directory = cache_directory()?.join(format!("python-{hash}"));
    let finished = directory.join("finished");
    fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    lock.lock().context("cannot lock the Python environment")?;
    if !finished.exists() {
        let step = Step::start("installing Google's Python libraries", "less than a minute");
        install(&directory)?;
        fs::write(&finished, "")?;
        step.done();
    }
    Ok(directory)
}

fn install(directory: &Path) -> anyhow::Result<()> {
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let venv = Command::new("python3").args(["-m", "venv"]).arg(directory).stdin(Stdio::null()).output();
    let venv = venv.context("there is no python3")?;
    ensure!(
        venv.status.success(),
        "python3 -m venv failed (on Debian and Ubuntu it is in the package python3-venv): {}{}",
        String::from_utf8_lossy(&venv.stdout),
        String::from_utf8_lossy(&venv.stderr)
    );
    let pip = Command::new(directory.join("bin/pip"))
        .args(["install", "--disable-pip-version-check", "--quiet", "--requirement"])
        .arg(&requirements)
        .stdin(Stdio::null())
        .output()
        .context("the virtual environment has no pip")?;
    ensure!(pip.status.success(), "pip install failed: {}", String::from_utf8_lossy(&pip.stderr));
    Ok(())
}

/// The name of the node that the tests share.
const NODE: &str = "test";
const CLUSTER: [Tool; 5] =
    [Tool::KubeApiserver, Tool::KubeControllerManager, Tool::Kubectl, Tool::Etcd, Tool::Helm];
const REQUIREMENTS: &str = include_str!("requirements.txt");
