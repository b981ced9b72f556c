//! A cluster on which the chart is installed, with bindings, and a Google of its own: fresh for each of those that are compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tempfile::TempDir;

use super::super::usage::Usage;
use super::fleet::{self, Fleet};
use super::operator::Operator;
use super::requests::Requests;
use crate::cluster::{Cluster, ClusterOptions};
use crate::demo::chart::{self, Chart, NAMESPACE, RELEASE};
use crate::demo::ground::resource;
use crate::demo::operator::Ports;
use crate::google::{Endpoint, Google};
use crate::process::wait_for;
use crate::progress::Step;

/// See the module.
pub(super) struct Stage {
    pub(super) google: Google,
    /// An administrator's.
    pub(super) client: Client,
    chart: Chart,
    ports: Ports,
    /// Of the controller's ServiceAccount.
    kubeconfig: PathBuf,
    // Before the directory, so that the programs end before their files go.
    cluster: Cluster,
    directory: TempDir,
}

impl Stage {
    /// Builds it, for tokens that live as long as `lifetime`.
    pub(super) async fn open(helm: &Path, fleet: Fleet, lifetime: Duration) -> anyhow::Result<Self> {
        let step = Step::start(format!("an API server with {} bindings", fleet.0), "");
        let directory = tempfile::Builder::new().prefix("idtoken-bench-").tempdir()?;
        let google = Google::start(fleet.google(lifetime)).await?;
        let ports = Ports::free()?;
        let parts = chart::Parts { with_webhook: false, all_sources: false };
        let chart = chart::render(helm, &google, &ports, parts).await?;
        let cluster = Cluster::start(ClusterOptions::default()).await?;
        let client = cluster.client();
        install(&client, &chart).await?;
        allow_every_way(&client).await?;
        fleet::create_namespaces(&client).await?;
        fleet.create(&client, 0).await?;
        let account = format!("{RELEASE}-controller");
        let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, &account).await?;
        step.done();
        Ok(Self { google, client, chart, ports, kubeconfig, cluster, directory })
    }

    /// A client with the rights of the controller.
    pub(super) async fn client_of_controller(&self) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Starts the controller.
    pub(super) fn start(&self, program: &Path) -> anyhow::Result<Operator> {
        Operator::start(program, &self.chart, &self.ports, &self.kubeconfig, self.directory.path())
    }

    /// The requests that the API server has answered so far.
    pub(super) async fn requests(&self) -> anyhow::Result<Requests> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        Ok(Requests::parse(&self.client.request_text(request).await?))
    }

    /// ID tokens that Google has signed so far.
    pub(super) fn mints(&self) -> u64 {
        self.google.minted(Endpoint::GenerateIdToken)
    }

    /// Processor time of API server and etcd.
    pub(super) fn cpu(&self) -> anyhow::Result<[Duration; 2]> {
        let [etcd, api_server] = self.cluster.pids()[..] else { anyhow::bail!("an unknown control plane") };
        Ok([Usage::of(api_server)?.cpu, Usage::of(etcd)?.cpu])
    }

    /// Ends all of it.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.cluster.stop().await?;
        self.google.stop().await;
        Ok(())
    }
}

async fn install(client: &Client, chart: &Chart) -> anyhow::Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    for object in chart.definitions.iter().chain(&chart.others) {
        let (kind, name) = (resource(object)?, object.name_any());
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        let parameters = PatchParams::apply("helm").force();
        let applied = api.patch(&name, &parameters, &Patch::Apply(object)).await;
        applied.with_context(|| format!("cannot apply the {} {name}", kind.kind))?;
    }
    wait_for("the CRDs to be served", SOON, async || {
        for kind in ["idtokenbindings", "idtokengrants"] {
            let path = format!("/apis/idtoken.dev/v1alpha1/{kind}");
            let list = client.request_text(http::Request::get(path).body(Vec::new())?).await?;
            ensure!(list.contains("items"), "no list of {kind}");
        }
        Ok(())
    })
    .await
}

/// Lets the controller's account write in every way that is compared, not only in the controller's own.
async fn allow_every_way(client: &Client) -> anyhow::Result<()> {
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "bench"},
        "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["patch"]},
            {"apiGroups": ["idtoken.dev"], "resources": ["idtokenbindings/status"], "verbs": ["patch"]},
        ],
    }))?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "bench"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bench"},
        "subjects": [{"kind": "ServiceAccount", "name": format!("{RELEASE}-controller"), "namespace": NAMESPACE}],
    }))?;
    Api::all(client.clone()).create(&PostParams::default(), &role).await?;
    Api::all(client.clone()).create(&PostParams::default(), &binding).await?;
    Ok(())
}

const SOON: Duration = Duration::from_secs(60);
