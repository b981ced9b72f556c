//! What a tier needs, found or installed into the cache.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::Tier;
use crate::progress::Step;
use crate::tools::{Tool, Tools, cache_directory};

/// Variables for the tests.
pub(super) type Environment = Vec<(&'static str, OsString)>;

/// Sees to everything that the tests of a tier need. The error says why they can't run here.
pub(super) fn of(tier: Tier) -> anyhow::Result<Environment> {
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
        Tier::Node => bail!("this version can't run a node"),
    }
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

const CLUSTER: [Tool; 5] =
    [Tool::KubeApiserver, Tool::KubeControllerManager, Tool::Kubectl, Tool::Etcd, Tool::Helm];
const REQUIREMENTS: &str = include_str!("requirements.txt");
