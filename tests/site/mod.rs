//! The real node with the operator installed by Helm, and the Google simulator at the node's address. All tests of a
//! binary share it; each has namespaces of its own, where Pod Security `restricted` is enforced.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub
)]

pub mod pods;

use std::{
    future::Future,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use idtoken_operator::api::IdTokenBinding;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::OnceCell};
use xtask::{
    google::{Google, Options, Ports, Role},
    node::{NODE_ADDRESS, NODE_VARIABLE, Node},
    process::{tail, wait_for},
    tools::{Tool, Tools},
};

pub const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";
pub const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
pub const AUDIENCE: &str = "https://orders-abc-uc.a.run.app";
pub const RELEASE: &str = "idtoken-operator";
pub const NAMESPACE: &str = "idtoken-system";
pub const SHELL: &str = "idtoken.test/shell:1";
pub const PYTHON: &str = "idtoken.test/python:1";
pub const SOON: Duration = Duration::from_secs(60);

/// What a test works with.
pub struct Site {
    pub google: Google,
    pub client: Client,
    node: Node,
    tools: Tools,
    directory: TempDir,
    installed: OnceCell<()>,
}

/// Runs a test in the node's network.
pub fn on_node<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Arc<Site>) -> F) {
    let (runtime, site) = site();
    // On the runtime's own threads: this one is not in the node's network.
    let outcome = runtime.block_on(runtime.spawn(test(site)));
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

fn site() -> (&'static Runtime, Arc<Site>) {
    static SITE: OnceLock<(Runtime, Arc<Site>)> = OnceLock::new();
    let (runtime, site) = SITE.get_or_init(|| {
        let name = std::env::var(NODE_VARIABLE).unwrap_or_else(|_| "default".to_owned());
        let node = Node::named(&name).unwrap();
        // The runtime's threads inherit the network of the one that starts them.
        std::thread::spawn(move || {
            node.enter().unwrap();
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let site = runtime.block_on(Site::open(node)).unwrap();
            (runtime, Arc::new(site))
        })
        .join()
        .unwrap()
    });
    (runtime, site.clone())
}

impl Site {
    async fn open(node: Node) -> anyhow::Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(node.inner_kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let tools = tokio::task::spawn_blocking(|| Tools::find(&[Tool::Kubectl, Tool::Helm])).await??;
        Ok(Self {
            google: Google::start(google_options()).await?,
            client: Client::try_from(config)?,
            node,
            tools,
            directory: TempDir::new()?,
            installed: OnceCell::new(),
        })
    }

    /// The operator, installed afresh for this test binary with what [`Self::values`] says.
    pub async fn installed(&self) -> &Self {
        self.installed
            .get_or_init(|| async {
                self.uninstall().await;
                self.release_namespace();
                let values = self.values();
                self.helm_ok(&[
                    "install",
                    RELEASE,
                    &chart(),
                    "--values",
                    path(&values),
                    "--wait",
                    "--timeout=120s",
                ]);
            })
            .await;
        self
    }

    /// The image, and [`Self::endpoints`].
    pub fn values(&self) -> PathBuf {
        let image = json!({"repository": "idtoken.test/idtoken-operator", "pullPolicy": "Never"});
        let mut values = self.simulator();
        values["image"] = image;
        self.write("values.yaml", &values)
    }

    /// Values that point the operator at the simulator.
    pub fn endpoints(&self) -> PathBuf {
        self.write("endpoints.yaml", &self.simulator())
    }

    /// A file of values.
    pub fn write(&self, name: &str, values: &Value) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, values.to_string()).unwrap();
        path
    }

    /// The simulator's authority is an extra object of the release.
    fn simulator(&self) -> Value {
        let authority = self.google.certificate_authority().unwrap();
        json!({
            "endpoints": {
                "metadataUrl": self.google.metadata_url(),
                "iamCredentialsUrl": self.google.iam_credentials_url(),
                "oauthTokenUrl": self.google.oauth_token_url(),
                "jwksUrls": {"https://accounts.google.com": self.google.jwks_url()},
            },
            "controller": {
                "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/google/ca.crt"}],
                "extraVolumes": [{"name": "google", "configMap": {"name": "google"}}],
                "extraVolumeMounts": [{"name": "google", "mountPath": "/etc/google", "readOnly": true}],
            },
            "extraObjects": [{
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "google"},
                "data": {"ca.crt": authority},
            }],
        })
    }

    /// The release's namespace.
    pub fn release_namespace(&self) {
        self.namespace(NAMESPACE);
    }

    /// A namespace with Pod Security `restricted` enforced.
    pub fn namespace(&self, name: &str) {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }));
    }

    /// Removes the release, if there is one, and waits until its pods are gone.
    pub async fn uninstall(&self) {
        self.helm_ok(&["uninstall", RELEASE, "--ignore-not-found", "--wait"]);
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        wait_for("the release's pods to be gone", SOON, || async {
            let left = pods.list(&ListParams::default()).await?.items.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// A namespace of its own for a test, whose bindings may use the caller's identity for every Cloud Run service.
    pub fn tenant(&self, name: &str) {
        // Left by an earlier run, where the node is older than this one.
        self.kubectl_ok(&["delete", "namespace", name, "--ignore-not-found"]);
        self.namespace(name);
        self.grant(name);
    }

    /// Lets the bindings of a namespace use the caller's identity for every Cloud Run service.
    pub fn grant(&self, name: &str) {
        self.apply(&json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": name},
            "spec": {"namespaces": {"names": [name]}, "identities": [CALLER], "audiences": ["https://*.a.run.app"]},
        }));
    }

    /// A binding of the caller's identity, Ready.
    pub async fn bound(&self, namespace: &str, name: &str, spec: &Value) -> IdTokenBinding {
        self.apply(&binding(namespace, name, spec));
        let api = Api::<IdTokenBinding>::namespaced(self.client.clone(), namespace);
        let ready = wait_for("the binding to be Ready", SOON, || async {
            let binding = api.get(name).await?;
            let status = binding.status.clone().unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready").context("no condition yet")?;
            ensure!(ready.status == "True", "{}: {}", ready.reason, ready.message);
            Ok(binding)
        });
        match ready.await {
            Ok(binding) => binding,
            Err(error) => panic!("{error:#}\n{}", self.release_logs()),
        }
    }

    /// The token in the Secret of a binding.
    pub async fn token(&self, namespace: &str, binding: &str) -> String {
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = api.get(&format!("{binding}-idtoken")).await.unwrap();
        String::from_utf8(secret.data.unwrap()["id_token"].0.clone()).unwrap()
    }

    /// What the release's programs have printed of late.
    pub fn release_logs(&self) -> String {
        let (_, text) = self.kubectl(&[
            "-n",
            NAMESPACE,
            "logs",
            "-l",
            "app.kubernetes.io/instance=idtoken-operator",
            "--tail=60",
            "--prefix",
        ]);
        let (_, pods) = self.kubectl(&["-n", NAMESPACE, "get", "pods,events"]);
        format!("{text}\n{pods}")
    }

    /// kubectl apply --server-side.
    pub fn apply(&self, object: &Value) {
        let (ok, output) = self.kubectl_with(&["apply", "--server-side", "-f", "-"], &object.to_string());
        assert!(ok, "{output}");
    }

    /// Runs kubectl; whether it succeeded, and all that it printed.
    pub fn kubectl(&self, args: &[&str]) -> (bool, String) {
        self.kubectl_with(args, "")
    }

    pub fn kubectl_with(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut command = Command::new(self.tools.path(Tool::Kubectl));
        said(run(command.args(args).env("KUBECONFIG", self.node.inner_kubeconfig()), input))
    }

    /// Runs kubectl, which must succeed; what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        let (ok, output) = self.kubectl(args);
        assert!(ok, "kubectl {args:?}: {output}");
        output
    }

    /// Runs Helm in the release's namespace; whether it succeeded, and all that it printed.
    pub fn helm(&self, args: &[&str]) -> (bool, String) {
        said(run(
            Command::new(self.tools.path(Tool::Helm))
                .args(["--namespace", NAMESPACE])
                .args(args)
                .envs(self.environment()),
            "",
        ))
    }

    /// Runs Helm, which must succeed; what it printed.
    pub fn helm_ok(&self, args: &[&str]) -> String {
        let (ok, output) = self.helm(args);
        assert!(ok, "helm {args:?}: {output}\n{}", tail(&self.release_logs(), 80));
        output
    }

    /// What kubectl and Helm need to find the cluster and nothing of this machine's user.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let home = self.directory.path();
        vec![
            ("KUBECONFIG", self.node.inner_kubeconfig()),
            ("HELM_CACHE_HOME", home.join("helm-cache")),
            ("HELM_CONFIG_HOME", home.join("helm-config")),
            ("HELM_DATA_HOME", home.join("helm-data")),
        ]
    }

    /// The path of a tool.
    pub fn tool(&self, tool: Tool) -> &Path {
        self.tools.path(tool)
    }
}

/// GKE, as seen by the controller of the release; tokens of four minutes, so that a refresh can be waited for.
fn google_options() -> Options {
    let address: IpAddr = NODE_ADDRESS.parse().unwrap();
    // The same ports for every test binary: those after the first find the release as it is.
    let ports = Ports {
        metadata: 18080,
        iam_credentials: 18081,
        sts: 18082,
        oauth: 18083,
        identity_toolkit: 18084,
        secure_token: 18085,
    };
    let options = Options { address, tls: true, ports, metadata_cache_margin: None, ..Options::default() };
    options.gke_annotated(NAMESPACE, "idtoken-operator-controller", OPERATOR).service_account(CALLER).allow(
        &format!("serviceAccount:{OPERATOR}"),
        Role::OpenIdTokenCreator,
        CALLER,
    )
}

pub fn binding(namespace: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": metadata, "spec": spec})
}

/// A binding of the caller's identity.
pub fn impersonation(audience: &str) -> Value {
    json!({"audience": audience, "source": {"impersonation": {"serviceAccount": CALLER}}})
}

pub fn chart() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/charts/idtoken-operator").to_owned()
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a program to its end. The simulator goes on meanwhile, on the runtime's other threads.
pub fn run(command: &mut Command, input: &str) -> Output {
    tokio::task::block_in_place(|| {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    })
}

pub fn said(output: Output) -> (bool, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Lower-case hex SHA-256, as `sha256sum` prints it.
pub fn sha256(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
