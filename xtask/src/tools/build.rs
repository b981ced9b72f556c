//! Builds a tool from Go modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cache::Cache;
use super::version::Version;
use super::{KUBERNETES_VERSION, Tool};
use crate::process::{Program, tail};
use crate::progress::{Step, human};

/// Builds a tool into the cache, or waits while another process does.
pub(super) fn build(tool: Tool, cache: &Cache) -> anyhow::Result<PathBuf> {
    let _lock = cache.lock(tool.name())?;
    if let Some(path) = cache.lookup(tool) {
        return Ok(path);
    }
    let module = module_directory(tool);
    require_go(&module, tool)?;
    let target = cache.directory().join(format!("{}.building", tool.name()));
    let expectation = match cache.last_build_time(tool) {
        Some(duration) => format!("last time: {}", human(duration)),
        None => format!("{} or more the first time", human(tool.usual_build_time())),
    };
    let step =
        Step::start(format!("building {} {} from Go modules", tool.name(), tool.version()), &expectation);
    go_build(tool, &module, &target, &cache.directory().join(format!("{}.log", tool.name())))?;
    let version = Version::parse(tool.version()).context("the version of a tool is not a version")?;
    let path = cache.store(tool, version, &target)?;
    cache.remember_build_time(tool, step.elapsed());
    step.done();
    Ok(path)
}

fn go_build(tool: Tool, module: &Path, target: &Path, log: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_file(log);
    let mut go = Program::new("go")
        .args(arguments(tool, target))
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .interruptible()
        .spawn(log)?;
    let status = loop {
        match go.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    if status.success() {
        return Ok(());
    }
    bail!(
        "building {} failed ({status}). The end of what go said (all of it: {}):\n{}\n\
         To try again by hand: cd {} && CGO_ENABLED=0 GOWORK=off {}",
        tool.name(),
        log.display(),
        tail(&go.log(), 30),
        module.display(),
        shell_words(&arguments(tool, target)),
    )
}

fn arguments(tool: Tool, target: &Path) -> Vec<String> {
    let (_, package) = tool.source();
    vec![
        "build".to_owned(),
        "-trimpath".to_owned(),
        "-buildvcs=false".to_owned(),
        format!("-ldflags={}", linker_flags(tool)),
        "-o".to_owned(),
        target.display().to_string(),
        package.to_owned(),
    ]
}

/// Without its version a kube-apiserver says v0.0.0, and Helm refuses every chart that sets `kubeVersion`.
fn linker_flags(tool: Tool) -> String {
    if tool.version() != KUBERNETES_VERSION {
        return "-s -w".to_owned();
    }
    let variable = "k8s.io/component-base/version";
    let mut parts = KUBERNETES_VERSION.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!(
        "-s -w -X {variable}.gitVersion=v{KUBERNETES_VERSION} -X {variable}.gitMajor={major} -X {variable}.gitMinor={minor}"
    )
}

fn shell_words(arguments: &[String]) -> String {
    let quoted = arguments
        .iter()
        .map(|word| if word.contains(' ') { format!(" '{word}'") } else { format!(" {word}") });
    format!("go{}", quoted.collect::<String>())
}

/// Go itself, new enough; where it may fetch a newer toolchain for the module (Go's own default), it does so here.
fn require_go(module: &Path, tool: Tool) -> anyhow::Result<()> {
    let wanted = format!(
        "no {0} was found, so it has to be built, which needs Go {MINIMUM_GO} or newer. Install Go from \
         https://go.dev/dl/ or your distribution, or put {0} on PATH",
        tool.name()
    );
    let output = Command::new("go").arg("version").current_dir(module).output();
    let output = output.map_err(|error| anyhow::anyhow!("{wanted} (running go: {error})"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    match Version::find_in(&printed) {
        Some(version) if output.status.success() && version >= MINIMUM_GO => Ok(()),
        Some(version) => bail!("{wanted} (the go on PATH is {version})"),
        None => bail!("{wanted} (go said: {})", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

fn module_directory(tool: Tool) -> PathBuf {
    let (module, _) = tool.source();
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(module)
}

const MINIMUM_GO: Version = Version(1, 26, 0);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_kube_apiserver_is_told_its_version() {
        let command = shell_words(&arguments(Tool::KubeApiserver, Path::new("/out/kube-apiserver")));
        assert_eq!(
            command,
            "go build -trimpath -buildvcs=false '-ldflags=-s -w \
             -X k8s.io/component-base/version.gitVersion=v1.36.3 \
             -X k8s.io/component-base/version.gitMajor=1 \
             -X k8s.io/component-base/version.gitMinor=36' \
             -o /out/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver"
        );
    }

    #[test]
    fn others_are_only_stripped() {
        assert_eq!(linker_flags(Tool::Etcd), "-s -w");
        assert_eq!(linker_flags(Tool::Helm), "-s -w");
    }

    #[test]
    fn a_failed_build_shows_what_go_said_and_how_to_try_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("go.mod"), "module empty\n\ngo 1.26.0\n").unwrap();
        let log = directory.path().join("log");
        let error =
            go_build(Tool::Etcd, directory.path(), Path::new("/out/etcd"), &log).unwrap_err().to_string();
        assert!(error.starts_with("building etcd failed (exit status: 1)"), "{error}");
        assert!(error.contains("no required module provides package go.etcd.io/etcd/server/v3"), "{error}");
        assert!(error.contains("&& CGO_ENABLED=0 GOWORK=off go build -trimpath"), "{error}");
    }
}
