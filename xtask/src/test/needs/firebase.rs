//! Firebase's command line tool from npm, for its emulator of Identity Platform, which needs no Java.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::made_once;
use crate::packages;
use crate::process::tail;
use crate::progress::Step;

/// The program, to be run by `node`; installed once for each set of versions.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    node()?;
    let step = || Step::start("installing Firebase's emulator from npm", "about a minute");
    Ok(made_once("firebase", LOCK, step, install)?.join("node_modules/firebase-tools/lib/bin/firebase.js"))
}

/// Sees to Node.js and npm.
fn node() -> anyhow::Result<()> {
    if major("node").is_none() || major("npm").is_none() {
        packages::ensure(&["nodejs", "npm"])?;
    }
    let version = major("node").context("there is no node")?;
    ensure!(version >= OLDEST_NODE, "Node.js {version} is too old: Firebase needs {OLDEST_NODE}");
    Ok(())
}

/// The first number of what the program says its version is.
fn major(program: &str) -> Option<u32> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    said.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Exactly what the lock file names. No script of a package runs, and nothing optional comes along: the emulator needs
/// neither.
fn install(directory: &Path) -> anyhow::Result<()> {
    fs::write(directory.join("package.json"), PACKAGE)?;
    fs::write(directory.join("package-lock.json"), LOCK)?;
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .context("there is no npm")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "npm ci failed: {}", tail(&String::from_utf8_lossy(&said), 15));
    Ok(())
}

/// Of the pinned version of firebase-tools.
const OLDEST_NODE: u32 = 20;

const PACKAGE: &str = include_str!("../../../tools/firebase-tools/package.json");
const LOCK: &str = include_str!("../../../tools/firebase-tools/package-lock.json");

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn everything_is_pinned_by_its_hash() {
        let lock: Value = serde_json::from_str(LOCK).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert_eq!(packages["node_modules/firebase-tools"]["version"], "15.34.2");
        assert!(packages.len() > 500, "{}", packages.len());
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            let bundled = package["inBundle"] == true;
            let hash = package["integrity"].as_str().unwrap_or_default();
            assert!(bundled || hash.starts_with("sha512-") || hash.starts_with("sha1-"), "{name}");
            assert!(package["resolved"].is_null(), "{name} is bound to one registry");
        }
    }
}
