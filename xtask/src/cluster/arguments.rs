//! The command lines of the control plane. Every file is in the cluster's directory, which is also their working
//! directory.

use std::path::{Path, PathBuf};

use super::ClusterOptions;

pub(super) const ETCD: &str = "etcd";
pub(super) const API_SERVER: &str = "kube-apiserver";
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// The files of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    home: PathBuf,
}

impl Files {
    pub(crate) fn new(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.home.join("ca.crt")
    }

    pub(super) fn server_certificate(&self) -> PathBuf {
        self.home.join("kube-apiserver.crt")
    }

    pub(super) fn server_key(&self) -> PathBuf {
        self.home.join("kube-apiserver.key")
    }

    pub(super) fn service_account_key(&self) -> PathBuf {
        self.home.join("service-account.key")
    }

    pub(super) fn service_account_public_key(&self) -> PathBuf {
        self.home.join("service-account.pub")
    }

    pub(super) fn controller_manager_kubeconfig(&self) -> PathBuf {
        self.home.join("kube-controller-manager.kubeconfig")
    }

    /// The socket that etcd makes of [`ETCD_URL`] in its working directory.
    pub(super) fn etcd_socket(&self) -> PathBuf {
        self.home.join("etcd.sock:0")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}.log"))
    }
}

/// etcd listens on sockets in its working directory: no ports to collide, and nobody else can reach it.
pub(crate) fn etcd(home: &Path, further: &[String]) -> Vec<String> {
    let mut arguments = vec![
        flag("data-dir", home.join("etcd").display()),
        // The data need not survive the machine.
        "--unsafe-no-fsync".to_owned(),
        flag("listen-client-urls", ETCD_URL),
        flag("advertise-client-urls", ETCD_URL),
        flag("listen-peer-urls", "unix://peer.sock:0"),
        // Never dialled: there is one member. These must look like an address all the same.
        flag("initial-advertise-peer-urls", "http://localhost:2380"),
        flag("initial-cluster", "default=http://localhost:2380"),
        flag("quota-backend-bytes", 8_u64 << 30),
        flag("log-level", "warn"),
    ];
    arguments.extend_from_slice(further);
    arguments
}

pub(crate) fn api_server(files: &Files, port: u16, issuer: &str, options: &ClusterOptions) -> Vec<String> {
    let mut arguments = vec![
        flag("etcd-servers", ETCD_URL),
        flag("bind-address", "127.0.0.1"),
        flag("secure-port", port),
        // Without a node nobody looks for the API server by its Service, and a loopback address may not be in it.
        flag("advertise-address", "127.0.0.1"),
        flag("endpoint-reconciler-type", "none"),
        flag("service-cluster-ip-range", "10.96.0.0/16"),
        flag("tls-cert-file", files.server_certificate().display()),
        flag("tls-private-key-file", files.server_key().display()),
        flag("client-ca-file", files.authority().display()),
        flag("service-account-key-file", files.service_account_public_key().display()),
        flag("service-account-signing-key-file", files.service_account_key().display()),
        flag("service-account-issuer", issuer),
        flag("authorization-mode", "Node,RBAC"),
        flag("allow-privileged", true),
        flag("profiling", false),
    ];
    if !options.controller_manager {
        arguments.push(flag("disable-admission-plugins", "ServiceAccount"));
    }
    arguments.extend(options.api_server_args.iter().cloned());
    arguments
}

pub(crate) fn controller_manager(files: &Files) -> Vec<String> {
    vec![
        flag("kubeconfig", files.controller_manager_kubeconfig().display()),
        flag("controllers", CONTROLLERS.join(",")),
        flag("leader-elect", false),
        // It serves nothing that anybody asks for.
        flag("secure-port", 0),
        flag("use-service-account-credentials", true),
        flag("service-account-private-key-file", files.service_account_key().display()),
        flag("root-ca-file", files.authority().display()),
        flag("concurrent-gc-syncs", 20),
        flag("kube-api-qps", 200),
        flag("kube-api-burst", 400),
        flag("profiling", false),
    ]
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

const ETCD_URL: &str = "unix://etcd.sock:0";

/// What works without nodes.
const CONTROLLERS: [&str; 10] = [
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "replicaset-controller",
    "job-controller",
    "cronjob-controller",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn api_server_with(options: &ClusterOptions) -> Vec<String> {
        api_server(&Files::new(Path::new("/home")), 6443, "https://issuer", options)
    }

    #[test]
    fn the_service_account_plugin_needs_the_controller_manager() {
        let off = "--disable-admission-plugins=ServiceAccount".to_owned();
        assert!(api_server_with(&ClusterOptions::default()).contains(&off));
        let options = ClusterOptions { controller_manager: true, ..ClusterOptions::default() };
        assert!(!api_server_with(&options).contains(&off));
    }

    #[test]
    fn further_flags_come_last_so_that_they_win() {
        let options =
            ClusterOptions { api_server_args: vec!["--v=4".to_owned()], ..ClusterOptions::default() };
        assert_eq!(api_server_with(&options).last().map(String::as_str), Some("--v=4"));
    }
}
