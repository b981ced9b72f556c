//! Debian packages with all that they depend on, unpacked into a directory: downloaded by apt-get, not installed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::process::tail;

/// Which Debian the packages are of: part of an image's key.
pub(super) fn release() -> String {
    fs::read_to_string("/etc/os-release").unwrap_or_default()
}

/// Unpacks packages into the directory `root`, which becomes the root of a file system. `scratch` is an empty directory.
/// Maintainer scripts don't run.
pub(super) fn unpack(packages: &[&str], scratch: &Path, root: &Path) -> anyhow::Result<()> {
    download(packages, scratch)?;
    lay_out(root)?;
    let mut archives: Vec<_> = fs::read_dir(scratch)?.collect::<Result<_, _>>()?;
    archives.sort_unstable_by_key(fs::DirEntry::file_name);
    for archive in archives.iter().map(fs::DirEntry::path) {
        if archive.extension().is_some_and(|extension| extension == "deb") {
            unpack_one(&archive, root).with_context(|| format!("cannot unpack {}", archive.display()))?;
            fs::remove_file(&archive)?;
        }
    }
    for directory in DOCUMENTATION {
        let _ = fs::remove_dir_all(root.join(directory));
    }
    Ok(())
}

/// apt-get knows versions only from its lists, which may be missing, or older than what the mirror still has.
fn download(packages: &[&str], scratch: &Path) -> anyhow::Result<()> {
    if try_download(packages, scratch).is_err() {
        apt_get(Command::new("apt-get").args(["update", "--quiet"]))?;
        try_download(packages, scratch)?;
    }
    Ok(())
}

fn try_download(packages: &[&str], scratch: &Path) -> anyhow::Result<()> {
    // Nothing counts as installed, so that everything that is depended on comes too.
    let status = scratch.join("status");
    fs::create_dir_all(scratch.join("partial"))?;
    fs::write(&status, "")?;
    apt_get(
        Command::new("apt-get")
            .args(["install", "--download-only", "--yes", "--quiet", "--no-install-recommends"])
            .arg("--option")
            .arg(format!("Dir::State::status={}", status.display()))
            .arg("--option")
            .arg(format!("Dir::Cache::archives={}/", scratch.display()))
            .args(["--option", "Debug::NoLocking=true", "--option", "APT::Sandbox::User=root"])
            .args(packages),
    )
}

fn apt_get(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("there is no apt-get: this needs Debian or Ubuntu")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "apt-get failed: {}", tail(&String::from_utf8_lossy(&said), 10));
    Ok(())
}

/// The directories that the package base-files would bring: `/bin` is `/usr/bin`.
fn lay_out(root: &Path) -> anyhow::Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    fs::create_dir_all(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

/// As `dpkg-deb --extract`, but a directory in the package doesn't replace our symbolic link of that name.
fn unpack_one(archive: &Path, root: &Path) -> anyhow::Result<()> {
    let mut reading = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("there is no dpkg-deb")?;
    let contents = reading.stdout.take().context("dpkg-deb writes nothing")?;
    let written = Command::new("tar")
        .args(["--extract", "--keep-directory-symlink", "--same-permissions", "--file=-", "--directory"])
        .arg(root)
        .stdin(contents)
        .output()
        .context("there is no tar")?;
    ensure!(reading.wait()?.success(), "dpkg-deb failed");
    ensure!(written.status.success(), "tar failed: {}", String::from_utf8_lossy(&written.stderr).trim());
    Ok(())
}

/// What nobody reads inside a container.
const DOCUMENTATION: [&str; 6] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/lib/dpkg",
];
