//! Finds the programs that a real Kubernetes needs, or makes them.
//!
//! In this order: the directory that `KUBEBUILDER_ASSETS` names; PATH, if the version will do; the cache; the prebuilt
//! archive of the Kubernetes project (where the internet can be reached); and at last a build from Go modules.

mod build;
mod cache;
mod envtest;
mod version;

pub use cache::cache_directory;
pub(crate) use cache::lock;

use std::collections::BTreeMap;
use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::Cache;
use version::Version;

/// The version of Kubernetes' programs that is built.
pub const KUBERNETES_VERSION: &str = "1.36.3";
/// The version of etcd that is built.
pub const ETCD_VERSION: &str = "3.6.16";
/// The version of Helm that is built.
pub const HELM_VERSION: &str = "4.3.1";
/// The version of helm-unittest that is built.
pub const HELM_UNITTEST_VERSION: &str = "1.1.2";
/// The version of kubeconform that is built.
pub const KUBECONFORM_VERSION: &str = "0.8.0";
/// The version of kube-score that is built.
pub const KUBE_SCORE_VERSION: &str = "1.20.0";
/// The version of cert-manager whose controllers are built.
pub const CERT_MANAGER_VERSION: &str = "1.21.1";

/// A program that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `kube-apiserver`
    KubeApiserver,
    /// `kube-controller-manager`
    KubeControllerManager,
    /// `kube-scheduler`
    KubeScheduler,
    /// `kubelet`
    Kubelet,
    /// `kube-proxy`
    KubeProxy,
    /// `kubectl`
    Kubectl,
    /// `etcd`
    Etcd,
    /// `helm`
    Helm,
    /// `helm-unittest`
    HelmUnittest,
    /// `kubeconform`
    Kubeconform,
    /// `kube-score`
    KubeScore,
    /// cert-manager's controllers and its cainjector, as one program of ours
    CertManager,
}

impl Tool {
    /// The name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Kubectl => "kubectl",
            Self::Etcd => "etcd",
            Self::Helm => "helm",
            Self::HelmUnittest => "helm-unittest",
            Self::Kubeconform => "kubeconform",
            Self::KubeScore => "kube-score",
            Self::CertManager => "cert-manager-controllers",
        }
    }

    /// The version that is built where none is found.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Etcd => ETCD_VERSION,
            Self::Helm => HELM_VERSION,
            Self::HelmUnittest => HELM_UNITTEST_VERSION,
            Self::Kubeconform => KUBECONFORM_VERSION,
            Self::KubeScore => KUBE_SCORE_VERSION,
            Self::CertManager => CERT_MANAGER_VERSION,
            _ => KUBERNETES_VERSION,
        }
    }

    /// The oldest version that will do; `None` where any will.
    fn minimum(self) -> Option<Version> {
        match self {
            Self::KubeApiserver | Self::KubeControllerManager => Some(Version(1, 30, 0)),
            Self::Etcd => Some(Version(3, 5, 0)),
            Self::Helm => Some(Version(3, 18, 0)),
            // What they find differs from version to version. (helm-unittest and kube-score tell theirs only as released.)
            Self::HelmUnittest => Some(Version(1, 1, 0)),
            Self::Kubeconform => Some(Version(0, 8, 0)),
            Self::KubeScore => Some(Version(1, 20, 0)),
            Self::CertManager => Some(Version(1, 21, 0)),
            Self::Kubectl => None,
            // The parts of a node and its scheduler are tried with the API server of this version only.
            Self::KubeScheduler | Self::Kubelet | Self::KubeProxy => Some(Version(1, 36, 0)),
        }
    }

    /// The arguments that make it print its version.
    fn version_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kubectl => &["version", "--client"],
            Self::Helm => &["version", "--short"],
            Self::Kubeconform => &["-v"],
            Self::KubeScore => &["version"],
            _ => &["--version"],
        }
    }

    /// The Go module of ours (a directory of `xtask/tools`) that names it, and its package.
    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::KubeApiserver => ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
            Self::KubeControllerManager => ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            Self::KubeScheduler => ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
            Self::Kubelet => ("kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
            Self::KubeProxy => ("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
            Self::Kubectl => ("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
            Self::Etcd => ("etcd", "go.etcd.io/etcd/server/v3"),
            Self::Helm => ("helm", "helm.sh/helm/v4/cmd/helm"),
            Self::HelmUnittest => {
                ("helm-unittest", "github.com/helm-unittest/helm-unittest/cmd/helm-unittest")
            }
            Self::Kubeconform => ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
            Self::KubeScore => ("kube-score", "github.com/zegl/kube-score/cmd/kube-score"),
            Self::CertManager => ("cert-manager", "cert-manager-tool"),
        }
    }

    /// How long a first build took on two cores, with nothing in Go's caches but the modules.
    fn usual_build_time(self) -> Duration {
        Duration::from_secs(match self {
            Self::KubeApiserver => 408,
            Self::KubeControllerManager => 93,
            Self::KubeScheduler => 7,
            Self::Kubelet | Self::KubeScore => 24,
            Self::KubeProxy => 20,
            Self::Kubectl => 32,
            Self::Etcd => 43,
            Self::Helm => 333,
            Self::CertManager => 170,
            Self::HelmUnittest => 52,
            Self::Kubeconform => 21,
        })
    }
}

/// The paths of the tools that were asked for.
#[derive(Clone, Debug)]
pub struct Tools {
    paths: BTreeMap<Tool, PathBuf>,
}

impl Tools {
    /// Finds, downloads or builds every one of `tools`. May take many minutes the first time; tells on stderr why.
    pub fn find(tools: &[Tool]) -> anyhow::Result<Self> {
        let cache = Cache::open()?;
        let mut paths = BTreeMap::new();
        let mut missing = Vec::new();
        for &tool in tools {
            if let Some(path) = installed(tool).or_else(|| cache.lookup(tool)) {
                paths.insert(tool, path);
            } else {
                missing.push(tool);
            }
        }
        if missing.iter().any(|tool| envtest::CONTENTS.contains(tool)) {
            envtest::fetch(&cache);
        }
        for tool in missing {
            let path = match cache.lookup(tool) {
                Some(path) => path,
                None => build::build(tool, &cache)?,
            };
            paths.insert(tool, path);
        }
        Ok(Self { paths })
    }

    /// The path of a tool.
    ///
    /// # Panics
    /// When [`Tools::find`] was not asked for it.
    #[must_use]
    pub fn path(&self, tool: Tool) -> &Path {
        self.paths.get(&tool).expect("Tools::find was asked for this tool")
    }
}

/// What the user has: in `KUBEBUILDER_ASSETS` or on PATH, new enough.
fn installed(tool: Tool) -> Option<PathBuf> {
    let assets = env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    assets
        .into_iter()
        .chain(env::split_paths(&path))
        .filter_map(|directory| std::path::absolute(directory.join(tool.name())).ok())
        .filter(|candidate| is_executable(candidate))
        .find(|candidate| will_do(tool, candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn will_do(tool: Tool, candidate: &Path) -> bool {
    let Some(minimum) = tool.minimum() else {
        return true;
    };
    match Version::of(tool, candidate) {
        Ok(version) if version >= minimum => true,
        Ok(version) => {
            eprintln!("not used: {} is {version}, and {minimum} is needed", candidate.display());
            false
        }
        Err(error) => {
            eprintln!("not used: {}: {error:#}", candidate.display());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use std::fs;

    fn program(directory: &Path, name: &str, prints: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn too_old_programs_will_not_do() {
        let directory = tempfile::tempdir().unwrap();
        let will = |tool: Tool, prints: &str| will_do(tool, &program(directory.path(), tool.name(), prints));
        assert!(!will(Tool::Etcd, "etcd Version: 3.4.23"));
        assert!(will(Tool::Etcd, "etcd Version: 3.5.0"));
        assert!(!will(Tool::KubeApiserver, "Kubernetes v1.29.15"));
        assert!(will(Tool::KubeApiserver, "Kubernetes v1.30.0"));
        assert!(!will(Tool::Helm, "v3.17.3+ge4da497"));
        assert!(will(Tool::Helm, "v3.18.0+g1234567"));
        assert!(will(Tool::Helm, "v4.3.1+g1234567"));
        assert!(will(Tool::Kubectl, "anything"));
        assert!(!will(Tool::Etcd, "no version at all"));
    }

    #[test]
    fn only_executable_files_count() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_executable(&program(directory.path(), "etcd", "")));
        let text = directory.path().join("text");
        fs::write(&text, "").unwrap();
        assert!(!is_executable(&text));
        assert!(!is_executable(directory.path()));
        assert!(!is_executable(&directory.path().join("absent")));
    }

    #[test]
    fn the_go_modules_name_the_versions_that_are_promised() {
        let module = |name: &str| {
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(name).join("go.mod"))
                .unwrap()
        };
        assert!(module("kubernetes").contains("k8s.io/kubernetes v1.36.3"));
        assert!(module("etcd").contains("go.etcd.io/etcd/server/v3 v3.6.16"));
        assert!(module("helm").contains("helm.sh/helm/v4 v4.3.1"));
        assert_eq!([KUBERNETES_VERSION, ETCD_VERSION, HELM_VERSION], ["1.36.3", "3.6.16", "4.3.1"]);
        assert!(module("helm-unittest").contains("github.com/helm-unittest/helm-unittest v1.1.2"));
        assert!(module("kubeconform").contains("github.com/yannh/kubeconform v0.8.0"));
        assert!(module("kube-score").contains("github.com/zegl/kube-score v1.20.0"));
        for name in ["cert-manager", "schemas"] {
            assert!(module(name).contains("github.com/cert-manager/cert-manager v1.21.1"), "{name}");
        }
        assert_eq!(
            [HELM_UNITTEST_VERSION, KUBECONFORM_VERSION, KUBE_SCORE_VERSION, CERT_MANAGER_VERSION],
            ["1.1.2", "0.8.0", "1.20.0", "1.21.1"]
        );
    }
}
