//! The webhook as it is installed: a real API server with bindings, and `idtoken-operator webhook` beside it, with the defaults
//! that it has in a cluster, certificates of its own included.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::load::Server;
use super::population::Population;
use crate::cluster::{Cluster, ClusterOptions};
use crate::process::{Process, Program, wait_for};
use crate::progress::Step;
use crate::{port, probe, workspace};

/// A webhook with its API server.
pub(super) struct Subject {
    // First, so that the webhook ends before what it watches.
    pub(super) server: Server,
    _cluster: Cluster,
}

/// Starts one for `population`.
pub(super) async fn start(
    program: &Path,
    population: Population,
    directory: &Path,
) -> anyhow::Result<Subject> {
    let step = Step::start(format!("an API server with {} bindings", population.0), "");
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let client = cluster.client();
    install(&client).await?;
    population.create(&client).await?;
    step.done();
    let addr = SocketAddr::from(([127, 0, 0, 1], port::free()?));
    register(&client, addr).await?;
    let log = directory.join(format!("webhook-{}.log", population.0));
    let process = webhook(program, &cluster, addr, &log).await?;
    let server = Server::new(addr, &authority(&client).await?, process)?;
    Ok(Subject { server, _cluster: cluster })
}

/// Creates the kind of bindings, and the operator's namespace.
async fn install(client: &Client) -> anyhow::Result<()> {
    let file = workspace::root().join("crds/idtoken.dev_idtokenbindings.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut crd: CustomResourceDefinition = serde_yaml_ng::from_str(&text)?;
    // So that bindings can be made with their status, in one request instead of two.
    crd.spec.versions.iter_mut().for_each(|version| version.subresources = None);
    Api::all(client.clone()).create(&PostParams::default(), &crd).await?;
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    wait_for("the CRD to be served", SOON, async || {
        let request = http::Request::get("/apis/idtoken.dev/v1alpha1/idtokenbindings").body(Vec::new())?;
        Ok(client.request_text(request).await.map(drop)?)
    })
    .await
}

/// What the webhook puts its caBundle into; nobody creates pods here.
async fn register(client: &Client, addr: SocketAddr) -> anyhow::Result<()> {
    let registration = json!({
        "metadata": {"name": CONFIGURATION},
        "webhooks": [{
            "name": "pods.idtoken.dev",
            "clientConfig": {"url": format!("https://{addr}/mutate")},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
        }],
    });
    let registration: MutatingWebhookConfiguration = serde_json::from_value(registration)?;
    Api::all(client.clone()).create(&PostParams::default(), &registration).await?;
    Ok(())
}

/// Starts the process and waits until it is ready.
async fn webhook(program: &Path, cluster: &Cluster, addr: SocketAddr, log: &Path) -> anyhow::Result<Process> {
    let telemetry = SocketAddr::from(([127, 0, 0, 1], port::free()?));
    let mut process = Program::new(program)
        .args(["webhook", "--log-format=json", "--tls-extra-name=127.0.0.1"])
        .arg(format!("--addr={addr}"))
        .arg(format!("--health-addr={telemetry}"))
        .arg(format!("--metrics-addr={telemetry}"))
        .arg(format!("--operator-namespace={NAMESPACE}"))
        .arg(format!("--webhook-config-name={CONFIGURATION}"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .spawn(log)?;
    let url = format!("http://{telemetry}/readyz");
    let ready = tokio::select! {
        ready = wait_for("the webhook to be ready", SOON, || probe::answers(&url)) => ready,
        status = process.wait() => Err(process.ended_early(status?)),
    };
    ready.with_context(|| process.log())?;
    Ok(process)
}

/// The certificate authority that the webhook has registered.
async fn authority(client: &Client) -> anyhow::Result<String> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = api.get(CONFIGURATION).await?.webhooks.unwrap_or_default();
    let bundle = webhooks.into_iter().find_map(|webhook| webhook.client_config.ca_bundle);
    let bundle = String::from_utf8(bundle.context("the webhook has registered no caBundle")?.0)?;
    ensure!(!bundle.is_empty(), "the webhook has registered an empty caBundle");
    Ok(bundle)
}

const NAMESPACE: &str = "idtoken-system";
const CONFIGURATION: &str = "idtoken-operator";
const SOON: Duration = Duration::from_secs(60);
