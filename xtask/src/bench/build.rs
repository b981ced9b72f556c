//! The programs that are measured: built as they are released.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::progress::Step;
use crate::workspace;

/// The product to measure: the one that is `given`, or one built as it is released; for a `quick` look as it is developed. This program,
/// which has to be as fast as what it measures, is replaced by its release build where it is none.
pub(super) async fn product(given: Option<&Path>, quick: bool) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => program.to_owned(),
        None if quick => spawn_blocking(crate::demo::build_operator).await??,
        None => spawn_blocking(|| release("idtoken-operator")).await??,
    };
    if cfg!(debug_assertions) && !quick {
        let xtask = spawn_blocking(|| release("xtask")).await??;
        let more: &[&OsStr] =
            if given.is_some() { &[] } else { &[OsStr::new("--program"), program.as_os_str()] };
        match instead(&xtask, more)? {}
    }
    Ok(program)
}

/// Builds a package's program with the release profile, alone, so that nothing else adds features to what it is made of; tells
/// where it is.
fn release(package: &str) -> anyhow::Result<PathBuf> {
    let step = Step::start(format!("building {package} as it is released"), "minutes the first time");
    let output = workspace::cargo()
        .args(["build", "--locked", "--quiet", "--release", "--package", package, "--bin", package])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "building {package} failed: {}", output.status);
    let program = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .with_context(|| format!("cargo built {package}, but did not say where the program is"))?;
    step.done();
    Ok(program)
}

/// Runs `program` in place of this one, with this one's arguments and more; ends as it ends.
fn instead(program: &Path, more: &[&OsStr]) -> anyhow::Result<Infallible> {
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(more)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    std::process::exit(status.code().unwrap_or(1))
}
