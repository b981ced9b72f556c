//! What the operator does, each thing so that it can be tried alone: what must be so before it starts, what is done then, and
//! how it shows.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use idtoken_operator::api::{IdTokenBinding, IdTokenGrant};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    coordination::v1::Lease,
    core::v1::{Pod, Secret},
    events::v1::Event,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use xtask::process::wait_for;

use crate::common::{
    AUDIENCE, CALLER, OPERATOR_NAMESPACE, SOON, World, binding, conditions, http_get, impersonation, token,
};

/// Something that the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// A binding that is made gets its token, and says so.
    FirstToken,
    /// A Secret that was deleted comes back.
    RestoredSecret,
    /// A token is replaced.
    Refresh,
    /// A grant that is made takes effect.
    NewGrant,
    /// A Secret goes when its grant has gone.
    Revocation,
    /// A grant tells who uses it.
    GrantUsage,
    /// A pod that asks for a token and has none is reported.
    UninjectedPod,
    /// A label put on a namespace lets a grant take effect.
    NewLabel,
    /// There is an event of a binding that is served again.
    Event,
    /// The same again is counted in that event.
    EventAgain,
    /// A Kubernetes ServiceAccount becomes a token.
    AccountToken,
    /// One that does not exist is named.
    AccountMissing,
    /// An annotation put on one takes effect.
    AccountAnnotated,
    /// A controller leads where there is no Lease yet.
    FirstLease,
    /// A controller leads where another has given the Lease back.
    TakenLease,
    /// A webhook becomes ready.
    WebhookReady,
    /// It does where its Secret is gone.
    WebhookReadyAlone,
    /// A binding that was replaced is mounted as it is now.
    ReplacedBinding,
    /// A pod that names a binding which does not exist is admitted.
    UnknownBinding,
    /// A caBundle that was wiped comes back.
    RestoredBundle,
    /// The check of an installation passes.
    Check,
}

pub(crate) const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";
pub(crate) const LEASE_NAME: &str = "idtoken-operator-controller";
const AUTHORITY: &str = "idtoken-operator-webhook-tls";
const REGISTRATION: &str = "idtoken-operator";

/// A try of a work, under a name of its own.
pub(crate) struct Try<'a> {
    world: &'a World,
    work: Work,
    name: String,
    /// The token that is to be replaced.
    before: String,
}

impl<'a> Try<'a> {
    pub(crate) fn new(world: &'a World, work: Work, name: &str) -> Self {
        Self { world, work, name: name.to_owned(), before: String::new() }
    }

    /// Before the process starts.
    pub(crate) async fn arrange(&self) {
        match self.work {
            Work::FirstLease | Work::TakenLease => {
                let leases = Api::<Lease>::namespaced(self.world.client.clone(), OPERATOR_NAMESPACE);
                let _ = leases.delete(LEASE_NAME, &DeleteParams::default()).await;
                if self.work == Work::TakenLease {
                    let given_back =
                        json!({"metadata": {"name": LEASE_NAME}, "spec": {"holderIdentity": ""}});
                    create(&leases, given_back).await;
                }
            }
            Work::WebhookReady | Work::WebhookReadyAlone => {
                let secrets = Api::<Secret>::namespaced(self.world.client.clone(), OPERATOR_NAMESPACE);
                let _ = secrets.delete(AUTHORITY, &DeleteParams::default()).await;
                if self.work == Work::WebhookReady {
                    create(&secrets, json!({"metadata": {"name": AUTHORITY}, "type": "Opaque"})).await;
                }
            }
            // What the cache lacks is read: so it must have it.
            Work::ReplacedBinding => self.bind_to_secret("old").await,
            _ => {}
        }
    }

    /// While it runs: all that comes before the moment at which the work is to be seen.
    pub(crate) async fn begin(&mut self) {
        let (world, name) = (self.world, &*self.name.clone());
        match self.work {
            Work::FirstToken | Work::GrantUsage => {
                world.bind(name, &impersonation()).await;
            }
            Work::RestoredSecret => {
                world.bind(name, &impersonation()).await;
                world.wait_condition(name, "Ready=True/TokenFresh").await;
                world.delete_secret(&format!("{name}-idtoken")).await;
            }
            Work::Refresh => {
                world.bind(name, &impersonation()).await;
                world.wait_condition(name, "Ready=True/TokenFresh").await;
                // Two tokens of one second are the same.
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.before = token(&world.secret_of(name).await);
                world.request_refresh(name).await;
            }
            // A first token makes no event, one after a rest does.
            Work::Event | Work::EventAgain => {
                world.bind(name, &impersonation()).await;
                for _ in 0..if self.work == Work::Event { 1 } else { 2 } {
                    world.wait_condition(name, "Ready=True/TokenFresh").await;
                    self.suspend(true).await;
                    world.wait_condition(name, "Ready=True/Suspended").await;
                    self.suspend(false).await;
                }
            }
            Work::NewGrant => {
                self.bind_in_own_namespace().await;
                world.grant(name, &[name], &[CALLER]).await;
            }
            Work::Revocation => {
                self.bind_in_own_namespace().await;
                world.grant(name, &[name], &[CALLER]).await;
                let ready = async || self.is(name, "Ready=True/TokenFresh").await;
                wait_for("the binding to be served", SOON, ready).await.unwrap();
                grants(world).delete(name, &DeleteParams::default()).await.unwrap();
            }
            Work::UninjectedPod => {
                self.create_pod(&PostParams::default()).await.unwrap();
            }
            Work::NewLabel => {
                let spec = json!({"namespaces": {"selector": {"matchLabels": {"try": name}}}, "identities": [CALLER],
                    "audiences": [AUDIENCE]});
                world.apply(&[json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant",
                    "metadata": {"name": name}, "spec": spec})]);
                self.bind_in_own_namespace().await;
                let (ok, said) = world.kubectl(&["label", "namespace", name, &format!("try={name}")], None);
                assert!(ok, "{said}");
            }
            Work::AccountToken => {
                self.account(&json!({"iam.gke.io/gcp-service-account": ROBOT}));
                self.bind_account().await;
            }
            Work::AccountMissing => self.bind_account().await,
            Work::AccountAnnotated => {
                self.account(&json!({}));
                self.bind_account().await;
                world.wait_condition(name, "Ready=False/ServiceAccountNotAnnotated").await;
                self.account(&json!({"iam.gke.io/gcp-service-account": ROBOT}));
            }
            _ => self.begin_with_webhook().await,
        }
    }

    async fn begin_with_webhook(&self) {
        let (world, name) = (self.world, self.name.as_str());
        match self.work {
            Work::ReplacedBinding => {
                world.bindings().delete(name, &DeleteParams::default()).await.unwrap();
                self.bind_to_secret("new").await;
            }
            Work::RestoredBundle => {
                let patch = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
                let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
                registrations(world).patch(REGISTRATION, &PatchParams::default(), &patch).await.unwrap();
            }
            _ => {}
        }
    }

    /// Whether it is done.
    pub(crate) async fn done(&self) -> anyhow::Result<()> {
        let name = self.name.as_str();
        match self.work {
            Work::FirstToken | Work::AccountToken | Work::AccountAnnotated => {
                self.is("shop", "Ready=True/TokenFresh").await
            }
            Work::NewGrant | Work::NewLabel => self.is(name, "Ready=True/TokenFresh").await,
            Work::AccountMissing => self.is("shop", "Ready=False/CredentialsNotFound").await,
            Work::RestoredSecret => {
                self.world.secrets().get(&format!("{name}-idtoken")).await?;
                Ok(())
            }
            Work::Revocation => {
                let secrets = Api::<Secret>::namespaced(self.world.client.clone(), name);
                ensure!(secrets.get_opt(&format!("{name}-idtoken")).await?.is_none(), "the Secret is there");
                Ok(())
            }
            Work::GrantUsage => {
                let users = grants(self.world).get("shop").await?.status.map(|s| s.used_by);
                let user = format!("shop/{name}");
                ensure!(users.iter().flatten().any(|used_by| *used_by == user), "it is {users:?}");
                Ok(())
            }
            Work::UninjectedPod => self.counted("Pod", "InjectionSkipped").await.map(drop),
            Work::Refresh => {
                let now = token(&self.world.secret_of(name).await);
                ensure!(now != self.before, "it is the same token");
                Ok(())
            }
            Work::Event => self.counted("IdTokenBinding", "TokenFresh").await.map(drop),
            Work::EventAgain => {
                ensure!(self.counted("IdTokenBinding", "TokenFresh").await? == 2, "it was counted once");
                Ok(())
            }
            Work::FirstLease | Work::TakenLease => {
                let metrics = http_get(self.world.controller_port, "/metrics").await?;
                let leads = format!("\nleader_election_master_status{{name=\"{LEASE_NAME}\"}} 1\n");
                ensure!(metrics.contains(&leads), "it does not lead");
                Ok(())
            }
            Work::WebhookReady | Work::WebhookReadyAlone => {
                let answer = http_get(self.world.webhook_health_port, "/readyz").await?;
                ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                Ok(())
            }
            Work::ReplacedBinding => {
                ensure!(self.mounted().await? == "new", "the old Secret is mounted");
                Ok(())
            }
            Work::UnknownBinding => self.mounted().await.map(drop),
            Work::RestoredBundle => {
                let registration = registrations(self.world).get(REGISTRATION).await?;
                let webhooks = registration.webhooks.unwrap();
                ensure!(webhooks[0].client_config.ca_bundle.is_some(), "there is no caBundle");
                Ok(())
            }
            Work::Check => {
                let (ok, said) = check(self.world).await;
                ensure!(ok, "{said}");
                Ok(())
            }
        }
    }
}

impl Try<'_> {
    /// A binding in a namespace to which nothing is granted.
    async fn bind_in_own_namespace(&self) {
        self.world.namespace(&self.name).await;
        let bindings = self.bindings(&self.name);
        let made = binding(&self.name, &self.name, &impersonation());
        bindings.create(&PostParams::default(), &made).await.unwrap();
        let refused = async || self.is(&self.name, "Ready=False/NotGranted").await;
        wait_for("the binding to be refused", SOON, refused).await.unwrap();
    }

    async fn bind_account(&self) {
        let source = json!({"kubernetesServiceAccount": {"name": self.name}});
        self.world.bind(&self.name, &json!({"audience": AUDIENCE, "source": source})).await;
    }

    /// A binding, made anew, of which nothing but the name of its Secret matters.
    async fn bind_to_secret(&self, secret: &str) {
        let mut spec = impersonation();
        spec["secret"] = json!({"name": secret});
        self.world.bind(&self.name, &spec).await;
    }

    fn account(&self, annotations: &Value) {
        let metadata = json!({"name": self.name, "namespace": "shop", "annotations": annotations});
        self.world.apply(&[json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})]);
    }

    async fn suspend(&self, suspend: bool) {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        self.world.bindings().patch(&self.name, &PatchParams::default(), &patch).await.unwrap();
    }

    fn bindings(&self, namespace: &str) -> Api<IdTokenBinding> {
        Api::namespaced(self.world.client.clone(), namespace)
    }

    async fn is(&self, namespace: &str, condition: &str) -> anyhow::Result<()> {
        let now = conditions(&self.bindings(namespace).get(&self.name).await?);
        ensure!(now.iter().any(|c| c == condition), "it is {now:?}");
        Ok(())
    }

    /// How often the event was counted.
    async fn counted(&self, kind: &str, reason: &str) -> anyhow::Result<i32> {
        let events = Api::<Event>::namespaced(self.world.client.clone(), "shop");
        let events = events.list(&ListParams::default()).await?;
        let ours = |event: &&Event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            (regarding.kind.as_deref(), regarding.name.as_deref()) == (Some(kind), Some(&self.name))
                && event.reason.as_deref() == Some(reason)
        };
        let event = events.items.iter().find(ours).context("there is no event")?;
        Ok(event.series.as_ref().map_or(1, |series| series.count))
    }

    /// A pod that asks for the binding's token.
    async fn create_pod(&self, params: &PostParams) -> kube::Result<Pod> {
        let annotations = json!({"idtoken.dev/inject": self.name});
        let pod = json!({"metadata": {"name": self.name, "annotations": annotations},
            "spec": {"containers": [{"name": "app", "image": "app"}]}});
        let pods = Api::<Pod>::namespaced(self.world.client.clone(), "shop");
        pods.create(params, &serde_json::from_value(pod).unwrap()).await
    }

    /// The Secret that a pod which names the binding would mount.
    async fn mounted(&self) -> anyhow::Result<String> {
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let pod = serde_json::to_value(self.create_pod(&dry_run).await?).unwrap();
        let secret = &pod["spec"]["volumes"][0]["projected"]["sources"][0]["secret"]["name"];
        Ok(secret.as_str().context("nothing is mounted")?.to_owned())
    }
}

/// The check, as the account that the chart gives it.
async fn check(world: &World) -> (bool, String) {
    let account = "idtoken-operator-test";
    let kubeconfig = world.cluster.kubeconfig_for_service_account(OPERATOR_NAMESPACE, account).await.unwrap();
    world.run_operator_as(&kubeconfig, &["check", "--namespace=default", "--timeout-seconds=1"]).await
}

fn grants(world: &World) -> Api<IdTokenGrant> {
    Api::all(world.client.clone())
}

fn registrations(world: &World) -> Api<MutatingWebhookConfiguration> {
    Api::all(world.client.clone())
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}
