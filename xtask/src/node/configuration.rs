//! The files of a node, and what its programs are told.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The node's address in its network. What listens there is reached by pods.
pub const NODE_ADDRESS: &str = "10.231.0.1";
/// The node's name.
pub const NODE_NAME: &str = "node";

pub(super) const API_PORT: u16 = 6443;
const POD_NETWORK: &str = "10.244.0.0/16";

/// The files of a node, all in its directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    home: PathBuf,
}

impl Files {
    pub(super) fn new(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn init(&self) -> PathBuf {
        self.home.join("init.sh")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}.log"))
    }

    /// Takes the place of /var/log.
    pub(super) fn log_directory(&self) -> PathBuf {
        self.home.join("log")
    }

    pub(super) fn outer_kubeconfig(&self) -> PathBuf {
        self.home.join("kubeconfig")
    }

    pub(super) fn inner_kubeconfig(&self) -> PathBuf {
        self.home.join("inner.kubeconfig")
    }

    pub(super) fn kubeconfig_of(&self, program: &str) -> PathBuf {
        self.home.join(format!("{program}.kubeconfig"))
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.home.join("ca.crt")
    }

    pub(super) fn containerd_socket(&self) -> PathBuf {
        self.home.join("containerd.sock")
    }

    pub(super) fn containerd_configuration(&self) -> PathBuf {
        self.home.join("containerd.toml")
    }

    pub(super) fn cni(&self) -> PathBuf {
        self.home.join("cni")
    }

    pub(super) fn kubelet_configuration(&self) -> PathBuf {
        self.home.join("kubelet.yaml")
    }

    pub(super) fn kube_proxy_configuration(&self) -> PathBuf {
        self.home.join("kube-proxy.yaml")
    }

    /// Takes the place of a directory below /usr that the controller manager would make.
    pub(super) fn volume_plugins(&self) -> PathBuf {
        self.home.join("volume-plugins")
    }

    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.home.join("resolv.conf")
    }
}

/// Flags of kube-apiserver beside those of a cluster without nodes; the later one wins.
pub(super) fn api_server(files: &Files) -> Vec<String> {
    vec![
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={NODE_ADDRESS}"),
        "--endpoint-reconciler-type=lease".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--kubelet-client-certificate={}", files.home().join("kubelet-client.crt").display()),
        format!("--kubelet-client-key={}", files.home().join("kubelet-client.key").display()),
    ]
}

/// Flags of kube-controller-manager beside those of a cluster without nodes; the later one wins.
pub(super) fn controller_manager(files: &Files) -> Vec<String> {
    vec![
        "--controllers=*".to_owned(),
        format!("--flex-volume-plugin-dir={}", files.volume_plugins().display()),
    ]
}

pub(super) fn scheduler(files: &Files) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", files.kubeconfig_of("kube-scheduler").display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// containerd, version 2 of its configuration. `restrict_oom_score_adj`: without `CAP_SYS_RESOURCE` runc can't lower it.
pub(super) fn containerd(files: &Files, sandbox_image: &str) -> String {
    let home = files.home().display();
    format!(
        r#"version = 2
root = "{home}/containerd/root"
state = "{home}/containerd/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{home}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "runc"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
        socket = files.containerd_socket().display(),
        cni = files.cni().display(),
    )
}

/// Every pod at the end of a wire of its own: all traffic is routed, so that Services work without the bridge's filters.
pub(super) fn network() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/var/lib/cni/networks",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The kubelet's periods (sync 1 min, watched Secrets) are its defaults: what is timed on this node is timed as elsewhere.
pub(super) fn kubelet(files: &Files) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": files.authority()},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "evictionHard": {"nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "containerRuntimeEndpoint": format!("unix://{}", files.containerd_socket().display()),
        "resolvConf": files.resolv_conf(),
        "maxPods": 250,
        "registerNode": true,
        "volumePluginDir": files.volume_plugins(),
    })
}

pub(super) fn kubelet_flags(files: &Files) -> Vec<String> {
    vec![
        format!("--config={}", files.kubelet_configuration().display()),
        format!("--kubeconfig={}", files.kubeconfig_of("kubelet").display()),
        format!("--root-dir={}", files.home().join("kubelet").display()),
        format!("--cert-dir={}", files.home().join("kubelet-pki").display()),
        format!("--node-ip={NODE_ADDRESS}"),
        format!("--hostname-override={NODE_NAME}"),
    ]
}

/// `maxPerCore` 0: the limit of connection tracking belongs to the whole machine and can't be set from here.
pub(super) fn kube_proxy(files: &Files) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": files.kubeconfig_of("kube-proxy")},
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": POD_NETWORK,
        "conntrack": {"maxPerCore": 0},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_in_the_directory_of_the_node() {
        let files = Files::new(Path::new("/nodes/n"));
        let text = containerd(&files, "pause:1");
        for line in [
            "root = \"/nodes/n/containerd/root\"",
            "state = \"/nodes/n/containerd/state\"",
            "address = \"/nodes/n/containerd.sock\"",
            "sandbox_image = \"pause:1\"",
            "conf_dir = \"/nodes/n/cni\"",
        ] {
            assert!(text.contains(line), "{line}");
        }
        assert_eq!(kubelet(&files)["containerRuntimeEndpoint"], "unix:///nodes/n/containerd.sock");
        assert!(kubelet_flags(&files).contains(&"--root-dir=/nodes/n/kubelet".to_owned()));
    }
}
