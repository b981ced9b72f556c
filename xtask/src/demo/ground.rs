//! The cluster that the demo plays on: one of its own, or the user's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, NamedAuthInfo};
use kube::{Api, Client, ResourceExt as _};
use tempfile::TempDir;

use crate::cluster::{Cluster, ClusterOptions};
use crate::process::wait_for;

/// A cluster, and what the demo has made in it.
pub(super) struct Ground {
    client: Client,
    kubeconfig: Kubeconfig,
    context: String,
    server: String,
    /// `None`: the user's.
    own: Option<Cluster>,
    made: Mutex<Vec<Made>>,
    /// Kubeconfigs and logs of the operator.
    directory: TempDir,
}

type Made = (ApiResource, Option<String>, String);

impl Ground {
    /// Starts a cluster, or connects to that of a kubeconfig context.
    pub(super) async fn open(context: Option<&str>) -> anyhow::Result<Self> {
        let (own, kubeconfig) = if context.is_some() {
            // Fails only when a provider is installed already, which is as good.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            (None, Kubeconfig::read().context("no kubeconfig to take the context from")?)
        } else {
            let options = ClusterOptions { controller_manager: true, ..ClusterOptions::default() };
            let cluster = Cluster::start(options).await?;
            let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
            (Some(cluster), kubeconfig)
        };
        let context = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone());
        let context = context.context("the kubeconfig names no context")?;
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
            .await
            .with_context(|| format!("the kubeconfig context {context:?} can't be used"))?;
        let server = config.cluster_url.to_string();
        let directory = tempfile::Builder::new().prefix("idtoken-demo-").tempdir()?;
        let client = Client::try_from(config)?;
        Ok(Self { client, kubeconfig, context, server, own, made: Mutex::default(), directory })
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the API server is.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Whether the API server can call a webhook on our loopback: where its own address is there, it should.
    pub(super) fn reaches_us(&self) -> bool {
        is_on_loopback(&self.server)
    }

    /// The line that points kubectl at the cluster.
    pub(super) fn how_to_reach(&self) -> String {
        match &self.own {
            Some(cluster) => format!("export KUBECONFIG='{}'", cluster.kubeconfig().display()),
            None => format!("kubectl config use-context '{}'", self.context),
        }
    }

    /// A place for files that go when the demo ends.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// On a user's cluster, refuses to touch what is there already.
    pub(super) async fn refuse_to_overwrite(&self, objects: &[DynamicObject]) -> anyhow::Result<()> {
        if self.own.is_some() {
            return Ok(());
        }
        let mut present = Vec::new();
        for object in objects {
            let (kind, namespace) = (resource(object)?, object.namespace());
            match self.api(&kind, namespace.as_deref()).get(&object.name_any()).await {
                Ok(_) => present.push(format!("{} {}", kind.kind, object.name_any())),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        if present.is_empty() {
            return Ok(());
        }
        bail!(
            "the cluster of context {:?} has {} already, and the demo overwrites nothing of yours; use another \
             cluster, or none: cargo xtask demo",
            self.context,
            present.join(", ")
        )
    }

    /// Creates an object by server-side apply, and remembers to remove it.
    pub(super) async fn apply(&self, object: &DynamicObject) -> anyhow::Result<DynamicObject> {
        let (kind, namespace, name) = (resource(object)?, object.namespace(), object.name_any());
        self.remember(kind.clone(), namespace.clone(), name.clone());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api(&kind, namespace.as_deref())
            .patch(&name, &parameters, &Patch::Apply(object))
            .await
            .with_context(|| format!("cannot apply the {} {name}", kind.kind))
    }

    /// A kubeconfig with a token of a `ServiceAccount`: what the program may do is then what the chart's RBAC says.
    pub(super) async fn kubeconfig_of(&self, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token of the ServiceAccount {account}"))?;
        let token = answer.status.context("a TokenRequest without a status")?.token;
        let path = self.directory().join(format!("{account}.kubeconfig"));
        let text = serde_yaml_ng::to_string(&with_token(&self.kubeconfig, &self.context, token)?)?;
        // The directory is its owner's only.
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Removes what was made and ends what was started.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        if let Some(cluster) = self.own.take() {
            return cluster.stop().await;
        }
        let mut made = std::mem::take(&mut *self.lock());
        made.reverse();
        if !made.is_empty() {
            eprintln!("removing what the demo made in the cluster of context {:?} …", self.context);
        }
        for (kind, namespace, name) in &made {
            let deleted =
                self.api(kind, namespace.as_deref()).delete(name, &DeleteParams::background()).await;
            match deleted {
                Ok(_) => {}
                // What is in a namespace, or of a kind, that has gone, has gone with it.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot delete {} {name}", kind.kind));
                }
            }
        }
        for (kind, namespace, name) in &made {
            let api = self.api(kind, namespace.as_deref());
            wait_for(&format!("the end of {} {name}", kind.kind), REMOVAL, || async {
                match api.get(name).await {
                    Ok(_) => bail!("it is still there"),
                    // Also the answer for a kind that has gone, which `get_opt` does not take for an absence.
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
        }
        Ok(())
    }

    fn api(&self, kind: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, kind),
            None => Api::all_with(self.client(), kind),
        }
    }

    fn remember(&self, kind: ApiResource, namespace: Option<String>, name: String) {
        self.lock().push((kind, namespace, name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Made>> {
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn is_on_loopback(server: &str) -> bool {
    let host = server.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// The resource of an object's kind; the kinds here all have regular plurals.
pub(crate) fn resource(object: &DynamicObject) -> anyhow::Result<ApiResource> {
    let types = object.types.as_ref().context("an object without a kind")?;
    Ok(ApiResource::from_gvk(&types.try_into()?))
}

/// The kubeconfig reduced to one context, whose user has nothing but `token`.
fn with_token(kubeconfig: &Kubeconfig, context: &str, token: String) -> anyhow::Result<Kubeconfig> {
    let chosen = kubeconfig.contexts.iter().find(|named| named.name == context);
    let mut chosen = chosen.cloned().with_context(|| format!("no context {context:?}"))?;
    let inner = chosen.context.as_mut().context("an empty context")?;
    inner.user = Some(USER.to_owned());
    let clusters = kubeconfig.clusters.iter().filter(|named| named.name == inner.cluster).cloned().collect();
    let user = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    let user = NamedAuthInfo { name: USER.to_owned(), auth_info: Some(user), ..NamedAuthInfo::default() };
    Ok(Kubeconfig {
        clusters,
        contexts: vec![chosen],
        auth_infos: vec![user],
        current_context: Some(context.to_owned()),
        ..Kubeconfig::default()
    })
}

const FIELD_MANAGER: &str = "idtoken-demo";
const USER: &str = "service-account";
const REMOVAL: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn only_an_api_server_on_this_machine_can_call_us() {
        for server in ["https://127.0.0.1:6443/", "https://localhost:6443", "https://[::1]:6443"] {
            assert!(is_on_loopback(server), "{server}");
        }
        for server in
            ["https://10.0.0.1:6443/", "https://kubernetes.example.com", "https://localhost.example.com", ""]
        {
            assert!(!is_on_loopback(server), "{server}");
        }
    }

    #[test]
    fn a_programs_kubeconfig_has_nobody_elses_credentials() {
        let kubeconfig = Kubeconfig::from_yaml(
            "current-context: b\n\
             contexts: [{name: a, context: {cluster: one, user: admin}}, {name: b, context: {cluster: two, user: b}}]\n\
             clusters: [{name: one, cluster: {server: 'https://one'}}, {name: two, cluster: {server: 'https://two'}}]\n\
             users: [{name: admin, user: {client-key-data: c2VjcmV0}}, {name: b, user: {}}]\n",
        )
        .unwrap();
        let text =
            serde_yaml_ng::to_string(&with_token(&kubeconfig, "a", "short".to_owned()).unwrap()).unwrap();
        assert!(text.contains("current-context: a\n") && text.contains("server: https://one\n"), "{text}");
        assert!(text.contains("token: short\n"), "{text}");
        assert!(!text.contains("two") && !text.contains("c2VjcmV0") && !text.contains("admin"), "{text}");
        assert!(with_token(&kubeconfig, "c", String::new()).is_err());
    }
}
