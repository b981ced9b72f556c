//! The prebuilt kube-apiserver, etcd and kubectl of the Kubernetes project ("envtest" archives).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{SHA512, digest};
use serde::Deserialize;

use super::cache::Cache;
use super::version::Version;
use super::{KUBERNETES_VERSION, Tool};
use crate::progress::Step;

/// What an archive contains.
pub(super) const CONTENTS: [Tool; 3] = [Tool::KubeApiserver, Tool::Etcd, Tool::Kubectl];

/// Downloads the archive into the cache. Failing is fine, and said once: everything in it can be built instead.
pub(super) fn fetch(cache: &Cache) {
    static FAILED: AtomicBool = AtomicBool::new(false);
    if FAILED.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = try_fetch(cache) {
        FAILED.store(true, Ordering::Relaxed);
        eprintln!("no prebuilt Kubernetes ({error:#})");
    }
}

fn try_fetch(cache: &Cache) -> anyhow::Result<()> {
    let _lock = cache.lock("envtest")?;
    if CONTENTS.iter().all(|tool| cache.lookup(*tool).is_some()) {
        return Ok(());
    }
    let index = download(INDEX, &["--max-time", "20"])?;
    let wanted = Version::parse(KUBERNETES_VERSION).context("the version of Kubernetes is not a version")?;
    let archive = choose(&String::from_utf8_lossy(&index), wanted, &platform())?;
    let step = Step::start(format!("downloading {}", archive.url), "about 70 MB");
    // Whatever takes longer than this is slower than building.
    let bytes =
        download(&archive.url, &["--max-time", "600", "--speed-limit", "50000", "--speed-time", "20"])?;
    unpack(&bytes, &archive.sha512, cache)?;
    step.done();
    Ok(())
}

/// An archive as the index describes it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Archive {
    #[serde(rename = "hash")]
    sha512: String,
    #[serde(rename = "selfLink")]
    url: String,
}

/// The archive for this platform in the wanted version, else in the newest patch of its minor version.
fn choose(index: &str, wanted: Version, platform: &str) -> anyhow::Result<Archive> {
    #[derive(Deserialize)]
    struct Index {
        releases: BTreeMap<String, BTreeMap<String, Archive>>,
    }
    let index: Index = serde_yaml_ng::from_str(index).context("the index cannot be read")?;
    let suffix = format!("-{platform}.tar.gz");
    index
        .releases
        .into_iter()
        .filter_map(|(version, archives)| Some((Version::parse(&version)?, archives)))
        .filter(|(version, _)| version.same_minor(wanted))
        .filter_map(|(version, archives)| {
            let archive = archives.into_iter().find(|(name, _)| name.ends_with(&suffix))?.1;
            Some(((version == wanted, version), archive))
        })
        .max_by_key(|(preference, _)| *preference)
        .map(|(_, archive)| archive)
        .with_context(|| format!("the index has none of {}.{} for {platform}", wanted.0, wanted.1))
}

fn unpack(archive: &[u8], sha512: &str, cache: &Cache) -> anyhow::Result<()> {
    let sum = hex(digest(&SHA512, archive).as_ref());
    ensure!(sum == sha512.to_ascii_lowercase(), "the archive's SHA-512 is {sum}, not {sha512}");
    let directory = tempfile::Builder::new().prefix("envtest-").tempdir_in(cache.directory())?;
    let file = directory.path().join("archive.tar.gz");
    fs::write(&file, archive)?;
    let tar = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(directory.path()).output();
    let tar = tar.context("cannot run tar")?;
    ensure!(tar.status.success(), "tar: {}", String::from_utf8_lossy(&tar.stderr).trim());
    for tool in CONTENTS {
        let program = find(directory.path(), tool.name())
            .with_context(|| format!("there is no {} in the archive", tool.name()))?;
        cache.store(tool, Version::of(tool, &program)?, &program)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find(&path, name) } else { (path.file_name()? == name).then_some(path) }
    })
}

fn download(url: &str, limits: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("curl")
        .args(["--connect-timeout", "3", "-fsSL", "--proto", "=https"])
        .args(limits)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .context("cannot run curl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

fn platform() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{system}-{architecture}")
}

const INDEX: &str =
    "https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const SAMPLE: &str = "
releases:
  v1.35.9:
    envtest-v1.35.9-linux-amd64.tar.gz: {hash: aa, selfLink: https://example.com/35}
  v1.36.2:
    envtest-v1.36.2-linux-amd64.tar.gz: {hash: bb, selfLink: https://example.com/36.2}
  v1.36.10:
    envtest-v1.36.10-linux-amd64.tar.gz: {hash: cc, selfLink: https://example.com/36.10}
    envtest-v1.36.10-darwin-arm64.tar.gz: {hash: dd, selfLink: https://example.com/36.10-mac}
";

    #[test]
    fn the_wanted_version_is_chosen_else_the_newest_patch() {
        let url = |wanted, platform| choose(SAMPLE, wanted, platform).map(|archive| archive.url);
        assert_eq!(url(Version(1, 36, 2), "linux-amd64").unwrap(), "https://example.com/36.2");
        assert_eq!(url(Version(1, 36, 3), "linux-amd64").unwrap(), "https://example.com/36.10");
        assert_eq!(url(Version(1, 36, 2), "darwin-arm64").unwrap(), "https://example.com/36.10-mac");
        let error = url(Version(1, 37, 0), "linux-amd64").unwrap_err().to_string();
        assert_eq!(error, "the index has none of 1.37 for linux-amd64");
    }

    fn archive(directory: &Path) -> Vec<u8> {
        let inside = directory.join("controller-tools/envtest");
        fs::create_dir_all(&inside).unwrap();
        for (name, prints) in [
            ("kube-apiserver", "Kubernetes v1.36.2"),
            ("etcd", "etcd Version: 3.6.9"),
            ("kubectl", "Client Version: v1.36.2"),
        ] {
            fs::write(inside.join(name), format!("#!/bin/sh\necho {prints}\n")).unwrap();
            fs::set_permissions(inside.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let tar =
            Command::new("tar").args(["-czf", "-", "-C"]).arg(directory).arg("controller-tools").output();
        tar.unwrap().stdout
    }

    #[test]
    fn a_good_archive_fills_the_cache_under_the_versions_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache")).unwrap();
        let bytes = archive(directory.path());
        let sum = hex(digest(&SHA512, &bytes).as_ref()).to_uppercase();
        unpack(&bytes, &sum, &cache).unwrap();
        let etcd = cache.lookup(Tool::Etcd).unwrap();
        assert_eq!(etcd, directory.path().join("cache/etcd-3.6.9/etcd"));
        assert_eq!(Command::new(etcd).output().unwrap().stdout, b"etcd Version: 3.6.9\n");
        assert!(cache.lookup(Tool::KubeApiserver).is_some() && cache.lookup(Tool::Kubectl).is_some());
    }

    #[test]
    fn an_archive_with_another_checksum_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache")).unwrap();
        let error = unpack(&archive(directory.path()), &"0".repeat(128), &cache).unwrap_err().to_string();
        assert!(error.starts_with("the archive's SHA-512 is "), "{error}");
        assert_eq!(fs::read_dir(cache.directory()).unwrap().count(), 0);
    }
}
