//! The operator's image: the Dockerfile, built by buildah on a build image of our own making.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::Archive;
use super::base::{self, Base};
use super::buildah::{Build, Buildah};
use super::key::Key;
use super::store::Store;
use crate::packages;
use crate::progress::Step;
use crate::workspace;

const REFERENCE: &str = "idtoken.test/idtoken-operator:0.1.0";
/// What the Dockerfile reads: what .dockerignore lets in, and the two themselves.
const INPUTS: [&str; 9] = [
    ".cargo",
    ".dockerignore",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "src",
    "tests/simulation/Cargo.toml",
    "vendor",
    "xtask/Cargo.toml",
];

pub(super) fn make(store: &Store) -> anyhow::Result<Archive> {
    let sources = workspace::root();
    let toolchain = Toolchain::find(&sources)?;
    let base = base::key(&toolchain.version);
    let key = key(&sources, &base)?;
    store.get_or_make("product", REFERENCE, &key, |scratch, image| {
        packages::ensure(&["buildah"])?;
        let auditable = cargo_auditable(store, &toolchain)?;
        let registry = fetch_crates(&sources)?;
        let buildah = Buildah::open(&store.directory().join("buildah"), &base)?;
        let base = Base::ensure(&buildah, &base, &scratch.join("base"))?;
        let step = Step::start("building the operator's image", EXPECTATION);
        buildah.build(&Build {
            context: &sources,
            base: &base.reference,
            volumes: &[
                (&toolchain.directory, base::TOOLCHAIN, "ro"),
                (&auditable, base::AUDITABLE, "ro"),
                (&registry, base::REGISTRY, "rw"),
            ],
            reference: REFERENCE,
            target: image,
        })?;
        step.done();
        Ok(())
    })
}

fn key(sources: &Path, base: &str) -> anyhow::Result<String> {
    let key = Key::new().text(base);
    Ok(INPUTS.iter().try_fold(key, |key, input| key.path(sources, input))?.finish())
}

/// The Rust that builds this workspace.
struct Toolchain {
    directory: PathBuf,
    version: String,
}

impl Toolchain {
    fn find(sources: &Path) -> anyhow::Result<Self> {
        let directory = printed(Command::new("rustc").args(["--print", "sysroot"]).current_dir(sources))?;
        let version = printed(Command::new("rustc").arg("-vV").current_dir(sources))?;
        let directory =
            std::fs::canonicalize(directory.trim()).context("the Rust toolchain has no directory")?;
        Ok(Self { directory, version })
    }
}

/// The directory with cargo-auditable in the Dockerfile's version, installed into the cache once.
fn cargo_auditable(store: &Store, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let root = store.directory().join(format!("cargo-auditable-{CARGO_AUDITABLE}"));
    let programs = root.join("bin");
    if programs.join("cargo-auditable").exists() {
        return Ok(programs);
    }
    let step = Step::start(format!("installing cargo-auditable {CARGO_AUDITABLE}"), "half a minute");
    let output = Command::new(toolchain.directory.join("bin/cargo"))
        .args([
            "install",
            "cargo-auditable",
            "--version",
            CARGO_AUDITABLE,
            "--locked",
            "--quiet",
            "--debug",
            "--root",
        ])
        .arg(&root)
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("RUSTC", toolchain.directory.join("bin/rustc"))
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo install cargo-auditable failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    step.done();
    Ok(programs)
}

/// Has cargo download what is missing of Cargo.lock, the way it does here, and returns where its crates are.
fn fetch_crates(sources: &Path) -> anyhow::Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["fetch", "--locked", "--quiet"])
        .current_dir(sources)
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo fetch failed: {}", String::from_utf8_lossy(&output.stderr));
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("CARGO_HOME").or_else(|| variable("HOME").map(|home| home.join(".cargo")));
    let registry = home.context("neither CARGO_HOME nor HOME is set")?.join("registry");
    ensure!(registry.is_dir(), "cargo has no {}", registry.display());
    Ok(registry)
}

fn printed(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().context("there is no rustc")?;
    ensure!(output.status.success(), "rustc failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

const CARGO_AUDITABLE: &str = "0.7.7";
const EXPECTATION: &str = "5 minutes the first time, less than two after a change";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::fs;

    #[test]
    fn the_dockerfile_says_the_same_versions() {
        let dockerfile = fs::read_to_string(workspace::root().join("Dockerfile")).unwrap();
        let lines: Vec<_> = dockerfile.lines().collect();
        assert!(lines.contains(&"ARG CARGO_AUDITABLE_VERSION=0.7.7"));
        assert_eq!(CARGO_AUDITABLE, "0.7.7");
        assert!(dockerfile.contains("org.opencontainers.image.version=\"0.1.0\""));
        assert_eq!(REFERENCE, "idtoken.test/idtoken-operator:0.1.0");
        let manifest = fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"idtoken-operator\"\nversion = \"0.1.0\"\n"));
    }

    /// A file that the build reads and that the key leaves out would leave a stale image.
    #[test]
    fn the_key_covers_what_the_build_is_given() {
        let ignore = fs::read_to_string(workspace::root().join(".dockerignore")).unwrap();
        let mut given: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
        given.extend([".dockerignore", "Dockerfile"]);
        given.sort_unstable();
        assert_eq!(given, INPUTS);
    }

    #[test]
    fn sources_and_toolchain_change_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let sources = directory.path();
        let first = key(sources, "base").unwrap();
        assert_eq!(key(sources, "base").unwrap(), first);
        assert_ne!(key(sources, "another").unwrap(), first);
        fs::create_dir_all(sources.join("src/cli")).unwrap();
        fs::write(sources.join("src/cli/mod.rs"), "").unwrap();
        assert_ne!(key(sources, "base").unwrap(), first);
    }
}
