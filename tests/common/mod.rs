//! A world to test in: a real API server with what the chart renders, the Google simulator, and the operator's binary
//! under the chart's own RBAC. Each test has a world of its own.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub
)]

pub mod admissions;
pub mod attempt;
pub mod audit;
pub mod child;
pub mod emulator;
pub mod envoy;
pub mod etcd;
mod google_flags;
pub mod http_client;
pub mod injection;
pub mod leaks;
pub mod mint;
pub mod mounted;
pub mod other_webhook;
pub mod pods;
pub mod proxy;
pub mod python;
pub mod refusals;
pub mod whole;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use idtoken_operator::api::{IdTokenBinding, IdTokenGrant};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::{
    bench::usage::Usage,
    cluster::{Cluster, ClusterOptions},
    google::{Google, Options, Provider, Role},
    process::{Process, Program, wait_for},
    tools::{Tool, Tools},
};

pub const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";
pub const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
pub const AUDIENCE: &str = "https://orders-abc-uc.a.run.app";
pub const OPERATOR_NAMESPACE: &str = "idtoken-system";
pub const SOON: Duration = Duration::from_secs(20);

/// What a test works with.
pub struct World {
    pub cluster: Cluster,
    pub google: Google,
    pub client: Client,
    pub tools: Tools,
    pub directory: TempDir,
    pub webhook_port: u16,
    /// Each with the port of its health and metrics.
    controllers: Vec<(Process, u16)>,
    webhooks: Vec<Process>,
    /// Of all controllers that were started.
    kubeconfigs: Vec<PathBuf>,
    /// ServiceAccount of the next controller.
    pub account: String,
    /// Where the next controller finds the API server, if not at its own address.
    pub api_server: Option<String>,
    /// Flags and environment of the next controller.
    pub flags: Vec<String>,
    /// Flags of the next webhook.
    pub webhook_flags: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Ports of health and metrics of the newest controller.
    pub controller_port: u16,
    /// Port of health and metrics of the newest webhook.
    pub webhook_health_port: u16,
    /// Credentials that the test put into Secrets: they may stand nowhere else either.
    pub planted: Vec<String>,
    /// Output of processes that have ended.
    pub old_logs: Vec<PathBuf>,
    started: u32,
}

/// The simulator as tests want it: tokens of an hour, no metadata cache, the operator may mint for the caller.
pub fn google_options() -> Options {
    let options = Options { metadata_cache_margin: None, ..Options::default() };
    options.service_account(CALLER).allow(&member(OPERATOR), Role::OpenIdTokenCreator, CALLER)
}

/// The flags that send the operator to the simulator instead of Google.
pub fn google_flags(google: &Google) -> Vec<String> {
    [google_flags::apis(google), google_flags::keys(google)].concat()
}

pub fn member(email: &str) -> String {
    format!("serviceAccount:{email}")
}

impl World {
    /// A world with a controller that is ready, and a namespace `shop` that may use the caller's identity.
    pub async fn with_controller(options: Options) -> Self {
        let mut world = Self::start(options, ClusterOptions::default()).await;
        world.start_controller().await;
        world.namespace("shop").await;
        world.grant("shop", &["shop"], &[CALLER, "operator"]).await;
        world
    }

    /// A world without processes of the operator.
    pub async fn start(options: Options, cluster: ClusterOptions) -> Self {
        // Both sides of this process speak TLS through kube: one provider for all.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tools =
            tokio::task::spawn_blocking(|| Tools::find(&[Tool::Kubectl, Tool::Helm])).await.unwrap().unwrap();
        let google = Google::start(options).await.unwrap();
        let cluster = Cluster::start(cluster).await.unwrap();
        let client = cluster.client();
        let world = Self {
            cluster,
            google,
            client,
            tools,
            directory: TempDir::new().unwrap(),
            webhook_port: free_port(),
            controllers: Vec::new(),
            webhooks: Vec::new(),
            kubeconfigs: Vec::new(),
            account: "idtoken-operator-controller".to_owned(),
            api_server: None,
            flags: Vec::new(),
            webhook_flags: Vec::new(),
            environment: Vec::new(),
            controller_port: 0,
            webhook_health_port: 0,
            planted: Vec::new(),
            old_logs: Vec::new(),
            started: 0,
        };
        world.namespace(OPERATOR_NAMESPACE).await;
        world.install(&[]).await;
        world
    }

    /// Applies what the chart renders, but for what needs nodes and for the webhook's registration.
    pub async fn install(&self, values: &[&str]) {
        let render = self.render(values);
        let kinds = ["Deployment", "Service", "PodDisruptionBudget", "MutatingWebhookConfiguration"];
        self.apply(
            &render.into_iter().filter(|o| !kinds.contains(&o["kind"].as_str().unwrap())).collect::<Vec<_>>(),
        );
        let bindings = Api::<IdTokenBinding>::all(self.client.clone());
        wait_for("the CRDs to be served", SOON, || async {
            Ok(bindings.list(&ListParams::default()).await?)
        })
        .await
        .unwrap();
    }

    /// The chart's objects.
    pub fn render(&self, values: &[&str]) -> Vec<Value> {
        let arguments = ["--skip-tests"].into_iter().chain(values.iter().flat_map(|value| ["--set", value]));
        let rendered = xtask::chart::template(self.tools.path(Tool::Helm), arguments).unwrap();
        xtask::chart::objects(&rendered).unwrap()
    }

    /// kubectl apply --server-side.
    pub fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let (ok, output) = self.kubectl(&["apply", "--server-side", "-f", "-"], Some(&list.to_string()));
        assert!(ok, "{output}");
    }

    /// Runs kubectl; whether it succeeded, and all that it printed.
    pub fn kubectl(&self, args: &[&str], input: Option<&str>) -> (bool, String) {
        let mut child = Command::new(self.tools.path(Tool::Kubectl))
            .args(args)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Makes the simulator's STS believe this cluster's keys, as those of the GKE cluster that the metadata server tells of.
    pub async fn trust_cluster(&self) {
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).unwrap();
        let keys = serde_json::from_str(&self.client.request_text(request).await.unwrap()).unwrap();
        let issuer = self.cluster.service_account_issuer().to_owned();
        let gke = Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster");
        self.google.set_provider(Provider { issuer, ..gke }.with_jwks(keys));
    }

    /// Starts a controller as the chart's ServiceAccount and waits until it is ready.
    pub async fn start_controller(&mut self) {
        self.spawn_controller().await;
        self.wait_ready(self.controller_port).await;
    }

    /// Starts a controller as the chart's ServiceAccount.
    pub async fn spawn_controller(&mut self) {
        let kubeconfig =
            self.cluster.kubeconfig_for_service_account(OPERATOR_NAMESPACE, &self.account).await.unwrap();
        if let Some(other) = &self.api_server {
            let text = std::fs::read_to_string(&kubeconfig).unwrap();
            std::fs::write(&kubeconfig, text.replace(self.cluster.server(), other)).unwrap();
        }
        self.controller_port = free_port();
        let address = format!("127.0.0.1:{}", self.controller_port);
        let google = &self.google;
        let program = Self::operator("controller", &kubeconfig)
            .args([format!("--health-addr={address}"), format!("--metrics-addr={address}")])
            .args(google_flags(google))
            .args(self.flags.clone());
        let program = self.environment.iter().fold(program, |p, (key, value)| p.env(key, value));
        self.started += 1;
        let log = self.directory.path().join(format!("controller-{}.log", self.started));
        let process = program.spawn(&log).unwrap();
        self.controllers.push((process, self.controller_port));
        self.kubeconfigs.push(kubeconfig);
    }

    /// With what the controller that was started last speaks to the API server.
    pub fn newest_kubeconfig(&self) -> &Path {
        self.kubeconfigs.last().unwrap()
    }

    /// Sends a controller, counted from the oldest that runs, a signal.
    pub fn signal_controller_at(&mut self, index: usize, signal: &str) {
        self.controllers[index].0.signal(signal).unwrap();
    }

    /// The process ids of the controllers that have not ended, from the oldest.
    pub fn living_controllers(&mut self) -> Vec<u32> {
        let living = |process: &mut Process| process.try_wait().unwrap().is_none().then(|| process.pid());
        self.controllers.iter_mut().filter_map(|(process, _)| living(process)).collect()
    }

    /// Ends the newest controller with SIGKILL.
    pub fn kill_controller(&mut self) {
        self.kill_controller_at(self.controllers.len() - 1);
    }

    /// Ends a controller, counted from the oldest that runs, with SIGKILL.
    pub fn kill_controller_at(&mut self, index: usize) {
        self.take_controller(index).kill().unwrap();
    }

    /// Ends the newest controller with SIGTERM; its exit must be clean.
    pub async fn stop_controller(&mut self) {
        self.stop_controller_at(self.controllers.len() - 1).await;
    }

    /// Ends a controller, counted from the oldest that runs, with SIGTERM; its exit must be clean.
    pub async fn stop_controller_at(&mut self, index: usize) {
        let status = self.take_controller(index).stop(Duration::from_secs(10)).await.unwrap();
        assert!(status.success(), "SIGTERM ends the controller with exit code 0, not {status}");
    }

    /// Gives away a controller, counted from the oldest that runs.
    pub fn take_controller(&mut self, index: usize) -> Process {
        let (process, _) = self.controllers.remove(index);
        self.old_logs.push(process.log_path().to_owned());
        self.controller_port = self.controllers.last().map_or(0, |(_, port)| *port);
        process
    }

    /// The newest controller that should have ended by itself: its exit code and all that it printed.
    pub async fn controller_failed(&mut self) -> (Option<i32>, String) {
        let mut process = self.take_controller(self.controllers.len() - 1);
        let status = process.wait_within(SOON).await.unwrap().expect("it ends");
        (status.code(), process.log())
    }

    /// Registers and starts a webhook as the chart's ServiceAccount; ready means that it serves.
    pub async fn start_webhook(&mut self) {
        self.register_webhook();
        self.run_webhook(self.webhook_port).await;
    }

    /// Applies the chart's MutatingWebhookConfiguration, for a webhook on the loopback.
    pub fn register_webhook(&self) {
        let url = format!("webhook.url=https://127.0.0.1:{}/mutate", self.webhook_port);
        let registration: Vec<_> = self
            .render(&[&url])
            .into_iter()
            .filter(|o| o["kind"] == "MutatingWebhookConfiguration")
            .collect();
        assert_eq!(registration.len(), 1);
        self.apply(&registration);
    }

    /// Starts one replica on `port` and waits until it is ready.
    pub async fn run_webhook(&mut self, port: u16) {
        self.spawn_webhook(port).await;
        self.wait_ready(self.webhook_health_port).await;
    }

    /// Starts one replica on `port`.
    pub async fn spawn_webhook(&mut self, port: u16) {
        let kubeconfig = self
            .cluster
            .kubeconfig_for_service_account(OPERATOR_NAMESPACE, "idtoken-operator-webhook")
            .await
            .unwrap();
        let health_port = free_port();
        let health = format!("127.0.0.1:{health_port}");
        let program = Self::operator("webhook", &kubeconfig).args([
            format!("--addr=127.0.0.1:{port}"),
            format!("--health-addr={health}"),
            format!("--metrics-addr={health}"),
            format!("--operator-namespace={OPERATOR_NAMESPACE}"),
            "--tls-extra-name=127.0.0.1".to_owned(),
        ]);
        let program = program.args(self.webhook_flags.clone());
        self.started += 1;
        let log = self.directory.path().join(format!("webhook-{}.log", self.started));
        self.webhooks.push(program.spawn(&log).unwrap());
        self.webhook_health_port = health_port;
    }

    /// The most memory that the newest webhook has had, in bytes.
    pub fn webhook_memory(&self) -> u64 {
        Usage::of(self.webhooks.last().unwrap().pid()).unwrap().peak
    }

    /// Sends the newest webhook a signal.
    pub fn signal_webhook(&mut self, signal: &str) {
        self.webhooks.last_mut().unwrap().signal(signal).unwrap();
    }

    /// Waits for the end of the newest webhook; its exit code.
    pub async fn webhook_ended(&mut self) -> Option<i32> {
        let mut process = self.webhooks.pop().unwrap();
        self.old_logs.push(process.log_path().to_owned());
        process.wait_within(SOON).await.unwrap().expect("it ends").code()
    }

    /// Runs the binary to its end, as an administrator; whether it succeeded, and all that it printed.
    pub async fn run_operator(&self, args: &[&str]) -> (bool, String) {
        self.run_operator_as(self.cluster.kubeconfig(), args).await
    }

    /// The same as somebody else.
    pub async fn run_operator_as(&self, kubeconfig: &Path, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idtoken-operator"));
        command.args(args).env("KUBECONFIG", kubeconfig).env_remove("KUBERNETES_SERVICE_HOST");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Ends the newest webhook with SIGTERM.
    pub async fn stop_webhook(&mut self) {
        let process = self.webhooks.pop().unwrap();
        self.old_logs.push(process.log_path().to_owned());
        let status = process.stop(Duration::from_secs(15)).await.unwrap();
        assert!(status.success(), "SIGTERM ends the webhook with exit code 0, not {status}");
    }

    fn operator(subcommand: &str, kubeconfig: &Path) -> Program {
        Program::new(env!("CARGO_BIN_EXE_idtoken-operator"))
            .arg(subcommand)
            .args(["--log-format=json", "--log-level=info,idtoken_operator=debug"])
            .env("KUBECONFIG", kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
            // The machine's own gcloud credentials are nobody's business here.
            .env("CLOUDSDK_CONFIG", "/nonexistent")
    }

    pub async fn wait_ready(&self, port: u16) {
        let ready = wait_for("the process to be ready", SOON, || async {
            let text = http_get(port, "/readyz").await?;
            anyhow::ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
            Ok(())
        });
        if let Err(error) = ready.await {
            panic!("{error:#}\n{}", self.logs());
        }
    }

    /// The metrics of the newest controller.
    pub async fn metrics(&self) -> String {
        http_get(self.controller_port, "/metrics").await.unwrap()
    }

    /// Where the running processes serve their metrics.
    pub fn metrics_ports(&self) -> Vec<u16> {
        let controllers = self.controllers.iter().map(|(_, port)| *port);
        let webhook = (!self.webhooks.is_empty()).then_some(self.webhook_health_port);
        controllers.chain(webhook).collect()
    }

    /// All that the operator's processes have printed.
    pub fn logs(&self) -> String {
        let old = self.old_logs.iter().map(|p| std::fs::read_to_string(p).unwrap_or_default());
        let running = self.controllers.iter().map(|(process, _)| process).chain(&self.webhooks);
        old.chain(running.map(Process::log)).collect()
    }

    pub async fn namespace(&self, name: &str) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let api = Api::<Namespace>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    }

    pub async fn grant(&self, name: &str, namespaces: &[&str], identities: &[&str]) {
        let body = json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": name}, "spec": {
            "namespaces": {"names": namespaces}, "identities": identities, "audiences": ["https://*.a.run.app"],
            "delegates": true,
        }});
        let api = Api::<IdTokenGrant>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    }

    pub fn bindings(&self) -> Api<IdTokenBinding> {
        Api::namespaced(self.client.clone(), "shop")
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "shop")
    }

    /// Creates a binding in `shop`.
    pub async fn bind(&self, name: &str, spec: &Value) -> IdTokenBinding {
        self.bindings().create(&PostParams::default(), &binding("shop", name, spec)).await.unwrap()
    }

    /// Asks for a refresh; also the way to hurry a slow retry.
    pub async fn request_refresh(&self, name: &str) {
        let value = Timestamp::now().to_string();
        let patch = json!({"metadata": {"annotations": {"idtoken.dev/refresh-requested-at": value}}});
        self.bindings().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits until the conditions of a binding are as named, such as `Ready=False/SourceDenied`.
    pub async fn wait_condition(&self, name: &str, expected: &str) -> IdTokenBinding {
        self.wait_condition_within(name, expected, SOON).await
    }

    pub async fn wait_condition_within(
        &self,
        name: &str,
        expected: &str,
        within: Duration,
    ) -> IdTokenBinding {
        let api = self.bindings();
        let what = format!("{name} to be {expected}");
        let found = wait_for(&what, within, || async {
            let binding = api.get(name).await?;
            let now = conditions(&binding);
            anyhow::ensure!(now.contains(&expected.to_owned()), "it is {now:?}");
            Ok(binding)
        });
        match found.await {
            Ok(binding) => binding,
            Err(error) => panic!("{error:#}\n{}", xtask::process::tail(&self.logs(), 60)),
        }
    }

    /// The Secret of a binding in `shop`.
    pub async fn secret_of(&self, name: &str) -> Secret {
        self.secrets().get(&format!("{name}-idtoken")).await.unwrap()
    }

    /// Waits until the Secret satisfies `check`.
    pub async fn wait_secret(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        check: impl Fn(&Secret) -> bool,
    ) -> Secret {
        let api = self.secrets();
        let found = wait_for(what, within, || async {
            let secret = api.get(name).await?;
            anyhow::ensure!(
                check(&secret),
                "it is at resourceVersion {:?}",
                secret.metadata.resource_version
            );
            Ok(secret)
        });
        match found.await {
            Ok(secret) => secret,
            Err(error) => panic!("{error:#}\n{}", xtask::process::tail(&self.logs(), 60)),
        }
    }

    pub async fn delete_secret(&self, name: &str) {
        self.secrets().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Looks for tokens in everything that was written down, then ends the world.
    pub async fn end(mut self) {
        leaks::assert_none(&self).await;
        while !self.webhooks.is_empty() {
            self.stop_webhook().await;
        }
        while !self.controllers.is_empty() {
            self.stop_controller().await;
        }
        self.cluster.stop().await.unwrap();
        self.google.stop().await;
    }
}

/// A binding of the caller's identity for [`AUDIENCE`].
pub fn impersonation() -> Value {
    json!({"audience": AUDIENCE, "source": {"impersonation": {"serviceAccount": CALLER}}})
}

/// The same for an audience of its own, so that it shares its token with no other binding.
pub fn impersonation_for(name: &str) -> Value {
    json!({"audience": audience_of(name), "source": {"impersonation": {"serviceAccount": CALLER}}})
}

/// The audience of a binding that shares its token with no other one.
pub fn audience_of(name: &str) -> String {
    format!("https://{}-abc-uc.a.run.app", name.replace('.', "-"))
}

/// A binding of the operator's own identity for [`AUDIENCE`].
pub fn metadata_server() -> Value {
    json!({"audience": AUDIENCE, "source": {"metadataServer": {}}})
}

pub fn binding(namespace: &str, name: &str, spec: &Value) -> IdTokenBinding {
    let metadata = json!({"name": name, "namespace": namespace});
    let body = json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": metadata, "spec": spec});
    serde_json::from_value(body).unwrap()
}

/// `Type=Status/Reason` of every condition.
pub fn conditions(binding: &IdTokenBinding) -> Vec<String> {
    let status = binding.status.clone().unwrap_or_default();
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

pub fn message(binding: &IdTokenBinding, type_: &str) -> String {
    let status = binding.status.clone().unwrap_or_default();
    status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.message.clone()).unwrap_or_default()
}

/// The raw token in a Secret.
pub fn token(secret: &Secret) -> String {
    data(secret, "id_token")
}

pub fn data(secret: &Secret, key: &str) -> String {
    let data: &BTreeMap<_, _> = secret.data.as_ref().unwrap();
    String::from_utf8(data[key].0.clone()).unwrap()
}

/// Lower-case hex SHA-256, without the code under test.
pub fn sha256(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The claims of a token, unverified.
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

pub fn free_port() -> u16 {
    xtask::port::free().unwrap()
}

/// A plain GET, the whole answer as text.
pub async fn http_get(port: u16, path: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
