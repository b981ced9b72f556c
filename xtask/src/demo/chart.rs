//! What the chart renders, by Helm itself.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::operator::Ports;
use crate::google::Google;

/// The name of the release, and of the webhook's registration.
pub(crate) use crate::chart::CHART as RELEASE;
pub(crate) use crate::chart::NAMESPACE;

/// What of the chart the demo needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// The webhook, which the API server calls on this machine.
    pub(crate) with_webhook: bool,
    /// The right to make tokens of ServiceAccounts, for every source. A cluster of the user's gets it on demand only.
    pub(crate) all_sources: bool,
}

/// The objects of the chart.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Applied, and established before the others.
    pub(crate) definitions: Vec<DynamicObject>,
    /// Applied: accounts, RBAC, the webhook's registration.
    pub(crate) others: Vec<DynamicObject>,
    /// What would run the programs where there are nodes: the demo runs them itself, with the arguments found here.
    workloads: Vec<DynamicObject>,
}

impl Chart {
    /// The arguments that the Deployment gives to the program of `component`.
    pub(super) fn arguments(&self, component: &str) -> anyhow::Result<Vec<String>> {
        let name = format!("{RELEASE}-{component}");
        let deployment = self
            .workloads
            .iter()
            .find(|object| kind(object) == "Deployment" && object.name_any() == name)
            .with_context(|| format!("the chart renders no Deployment {name}"))?;
        let arguments = deployment.data.pointer("/spec/template/spec/containers/0/args");
        let arguments = arguments.with_context(|| format!("the Deployment {name} gives no arguments"))?;
        Ok(serde_json::from_value(arguments.clone())?)
    }

    /// How many objects of each kind are applied: `2 CustomResourceDefinition, …`.
    pub(super) fn summary(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for object in self.definitions.iter().chain(&self.others) {
            *counts.entry(kind(object)).or_default() += 1;
        }
        counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    }
}

/// Renders the chart for programs that run on this machine.
pub(crate) async fn render(
    helm: &Path,
    google: &Google,
    ports: &Ports,
    parts: Parts,
) -> anyhow::Result<Chart> {
    let directory = tempfile::tempdir()?;
    let values = directory.path().join("values.json");
    std::fs::write(&values, values_for(google, ports, parts).to_string())?;
    let helm = helm.to_owned();
    let arguments = ["--skip-tests".into(), "--values".into(), values.into_os_string()];
    let rendered = tokio::task::spawn_blocking(move || crate::chart::template(&helm, arguments)).await??;
    drop(directory);
    sort(crate::chart::objects(&rendered)?)
}

fn values_for(google: &Google, ports: &Ports, parts: Parts) -> Value {
    json!({
        "logFormat": "text",
        "webhook": {"enabled": parts.with_webhook, "url": format!("https://127.0.0.1:{}/mutate", ports.webhook)},
        "endpoints": {
            "metadataUrl": google.metadata_url(),
            "iamCredentialsUrl": google.iam_credentials_url(),
            "stsUrl": google.sts_url(),
            "oauthTokenUrl": google.oauth_token_url(),
            "identityToolkitUrl": google.identity_toolkit_url(),
            "secureTokenUrl": google.secure_token_url(),
            "jwksUrls": {
                "https://accounts.google.com": google.jwks_url(),
                "https://securetoken.google.com": google.secure_token_jwks_url(),
                "gserviceaccount.com": google.service_account_jwks_url_template(),
            },
        },
        "sources": {"kubernetesServiceAccount": parts.all_sources},
    })
}

/// By what is done with them.
fn sort(objects: Vec<Value>) -> anyhow::Result<Chart> {
    let mut chart = Chart { definitions: Vec::new(), others: Vec::new(), workloads: Vec::new() };
    for value in objects {
        let object: DynamicObject =
            serde_json::from_value(value).context("the chart renders what is no Kubernetes object")?;
        match kind(&object) {
            "CustomResourceDefinition" => chart.definitions.push(object),
            "Deployment" | "Service" | "PodDisruptionBudget" => chart.workloads.push(object),
            _ => chart.others.push(object),
        }
    }
    Ok(chart)
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn the_right_to_make_tokens_of_accounts_is_for_all_sources_only() {
        let google = Google::start(crate::google::Options::default()).await.unwrap();
        let ports = Ports::free().unwrap();
        for (all_sources, expected) in [(false, json!(false)), (true, json!(true))] {
            let values = values_for(&google, &ports, Parts { with_webhook: true, all_sources });
            assert_eq!(values["sources"]["kubernetesServiceAccount"], expected);
        }
    }

    #[test]
    fn objects_are_sorted_by_what_is_done_with_them() {
        let objects = crate::chart::objects(
            "---\n# only a comment\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n---\n\
             apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: b}\n---\n\
             apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: idtoken-operator-controller}\n\
             spec: {template: {spec: {containers: [{args: [controller, --log-format=text]}]}}}\n",
        )
        .unwrap();
        let chart = sort(objects).unwrap();
        assert_eq!(chart.summary(), "1 CustomResourceDefinition, 2 ServiceAccount");
        assert_eq!(chart.arguments("controller").unwrap(), ["controller", "--log-format=text"]);
        assert_eq!(
            chart.arguments("webhook").unwrap_err().to_string(),
            "the chart renders no Deployment idtoken-operator-webhook"
        );
    }
}
