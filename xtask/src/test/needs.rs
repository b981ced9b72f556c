//! What a tier needs, found or installed into the cache.

mod firebase;
mod python;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

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
            Tools::find(&[Tool::CertManager])?;
            Ok(Environment::new())
        }
        Tier::Clients => {
            // Some give the libraries what a whole operator has published.
            Tools::find(&CLUSTER)?;
            let python = python::environment()?;
            Ok(vec![
                ("IDTOKEN_ENVOY", python::envoy(&python)?.into()),
                ("IDTOKEN_PYTHON", python.into()),
                ("IDTOKEN_FIREBASE", firebase::program()?.into()),
            ])
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

/// The directory `name` of the cache, one for each content of `pins`, made if it isn't there yet.
fn made_once(
    name: &str,
    pins: &str,
    step: impl FnOnce() -> Step,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let hash = BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, pins.as_bytes()).as_ref()[..9]);
    let directory = cache_directory()?.join(format!("{name}-{hash}"));
    let finished = directory.join("finished");
    fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", directory.display()))?;
    if !finished.exists() {
        let step = step();
        make(&directory)?;
        fs::write(&finished, "")?;
        step.done();
    }
    Ok(directory)
}

/// The name of the node that the tests share.
const NODE: &str = "test";
const CLUSTER: [Tool; 5] =
    [Tool::KubeApiserver, Tool::KubeControllerManager, Tool::Kubectl, Tool::Etcd, Tool::Helm];
