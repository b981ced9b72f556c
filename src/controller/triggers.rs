//! The watches beside that of the bindings: they fill the caches and name the bindings that a change concerns.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::{Stream, StreamExt as _, future::ready};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, reflector, store},
        watcher,
    },
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{context::Grants, grants_file::GrantsFile};
use crate::{
    api::{IdTokenBinding, IdTokenGrant, SECRET_TYPE, annotations, binding},
    cache::{
        Cache, Parts, Scope, api,
        fill::{Progress, follow},
    },
    telemetry::health::Health,
};

/// Bindings to look at. Unbounded: nobody takes from it before the caches are filled, and filling them puts one in for each
/// Secret; a bound would make the two wait for each other. Afterwards the controller takes at once.
pub(super) type Wake = mpsc::UnboundedSender<ObjectRef<IdTokenBinding>>;

/// Starts watches, and tells the controllers whom a change concerns.
pub(super) struct Triggers {
    pub client: Client,
    pub scope: Scope,
    /// Consulted for whom a change concerns.
    pub bindings: Cache<IdTokenBinding>,
    /// One for each controller.
    pub wakes: Parts<Wake>,
    pub health: Health,
    /// How many of the watches are refused now.
    pub refused: Gauge,
    pub stop: CancellationToken,
}

/// What is watched in each namespace, metadata only.
pub(super) struct Namespaced {
    /// Secrets of our type.
    pub secrets: Cache<PartialObjectMeta<Secret>>,
    /// Secrets that bindings may use as credentials.
    pub credentials: Cache<PartialObjectMeta<Secret>>,
    /// `None`: this installation does not serve them as source.
    pub accounts: Option<Cache<PartialObjectMeta<ServiceAccount>>>,
}

impl Triggers {
    /// Starts the watches of our Secrets, of Secrets that are credentials, and of ServiceAccounts where these are sources, in
    /// each namespace.
    pub(super) fn namespaced(&self, accounts: bool) -> (Namespaced, Parts<Vec<Progress>>) {
        let ours = watcher::Config::default().fields(&format!("type={SECRET_TYPE}"));
        let owners = |secrets: Vec<PartialObjectMeta<Secret>>| secrets.iter().filter_map(owner_of).collect();
        let (secrets, filling) = self.watch_each("the watch of Secrets", &ours, owners);
        let labelled = watcher::Config::default().labels(&format!("{}=true", annotations::CREDENTIAL));
        let all = self.bindings.clone();
        let (credentials, labelled) = self.watch_each(
            "the watch of credentials",
            &labelled,
            move |secrets: Vec<PartialObjectMeta<Secret>>| users_of(&all, &secrets, secret_names),
        );
        let filling = filling.zip(labelled).map(|(ours, labelled)| vec![ours, labelled]);
        if !accounts {
            return (Namespaced { secrets, credentials, accounts: None }, filling);
        }
        let (all, every) = (self.bindings.clone(), watcher::Config::default());
        let (accounts, listed) = self.watch_each(
            "the watch of ServiceAccounts",
            &every,
            move |accounts: Vec<PartialObjectMeta<ServiceAccount>>| users_of(&all, &accounts, account_names),
        );
        let filling = filling.zip(listed).map(|(mut all, listed)| {
            all.push(listed);
            all
        });
        (Namespaced { secrets, credentials, accounts: Some(accounts) }, filling)
    }

    /// Starts a watch of metadata in each namespace.
    fn watch_each<K>(
        &self,
        name: &'static str,
        config: &watcher::Config,
        concerned: impl Fn(Vec<PartialObjectMeta<K>>) -> Vec<ObjectRef<IdTokenBinding>> + Clone + Send + 'static,
    ) -> (Cache<PartialObjectMeta<K>>, Parts<Progress>)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let parts = self.scope.each(|namespace| {
            let api = api(&self.client, namespace);
            let (store, touched, progress) = self.watch(api, config.clone(), name, namespace);
            self.forward(name, touched, concerned.clone());
            (store, progress)
        });
        let (stores, progress) = parts.unzip();
        (Cache::of(stores), progress)
    }

    /// Starts the watches of grants and of namespaces, whose labels grants select by.
    pub(super) fn grants(&self) -> (Grants, Vec<Progress>) {
        let (every, name) = (Api::<IdTokenGrant>::all(self.client.clone()), "the watch of grants");
        let (grants, touched, known) = self.watch(every, watcher::Config::default(), name, None);
        let (all, current, mut before) = (self.bindings.clone(), grants.clone(), BTreeMap::new());
        self.forward(name, touched, move |_touched| {
            let now = versions(&current.state());
            if before == now {
                return Vec::new();
            }
            before = now;
            concerned(&all, |_| true)
        });
        let every = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let name = "the watch of namespaces";
        let (namespaces, touched, labelled) = self.watch(every, watcher::Config::default(), name, None);
        let all = self.bindings.clone();
        let of = move |namespaces: Vec<PartialObjectMeta<Namespace>>| {
            let names: HashSet<_> = namespaces.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
            concerned(&all, |b| b.metadata.namespace.as_deref().is_some_and(|of| names.contains(of)))
        };
        self.forward(name, touched, of);
        (Grants::Watched { grants, namespaces }, vec![known, labelled])
    }

    /// Starts to follow a file of grants.
    pub(super) fn grants_file(&self, file: GrantsFile) -> (Grants, Vec<Progress>) {
        let (grants, work) = file.follow(self.stop.clone());
        tokio::spawn(self.health.vital("the reading of the grants file", work));
        let changes = grants.changes();
        let all = self.bindings.clone();
        self.forward("the grants of the file", changes, move |_changes: Vec<()>| concerned(&all, |_| true));
        (Grants::File(grants), Vec::new())
    }

    /// A cache, the stream that fills it when somebody takes from it, and how far that is.
    fn watch<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        name: &'static str,
        namespace: Option<&str>,
    ) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>, Progress)
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = store();
        // Half of an object, and asked for by nobody here.
        let events = watcher(api, config).default_backoff().modify(|object| {
            object.managed_fields_mut().clear();
            object.annotations_mut().remove(LAST_APPLIED);
        });
        let events = reflector(writer, events);
        let (events, progress) = follow(events, name, namespace, &self.refused);
        (store, events.touched_objects(), progress)
    }

    fn forward<K: Send + 'static>(
        &self,
        name: &'static str,
        touched: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
        mut concerned: impl FnMut(Vec<K>) -> Vec<ObjectRef<IdTokenBinding>> + Send + 'static,
    ) {
        let (wakes, stop) = (self.wakes.clone(), self.stop.clone());
        let refs = touched
            .filter_map(|item| ready(item.ok()))
            // Whatever came at once, as a first list does, is matched with all bindings at once.
            .ready_chunks(AT_ONCE)
            .flat_map(move |objects| futures::stream::iter(concerned(objects)))
            .take_until(stop.cancelled_owned());
        let work = async move {
            let mut refs = std::pin::pin!(refs);
            while let Some(reference) = refs.next().await {
                let namespace = reference.namespace.as_deref().unwrap_or_default();
                if wakes.of(namespace).is_some_and(|wake| wake.send(reference.clone()).is_err()) {
                    break;
                }
            }
        };
        tokio::spawn(self.health.vital(name, work));
    }
}

/// Bindings that use the operator's own identity, and so depend on grants.
fn concerned(
    bindings: &Cache<IdTokenBinding>,
    also: impl Fn(&IdTokenBinding) -> bool,
) -> Vec<ObjectRef<IdTokenBinding>> {
    let uses_operator = |b: &IdTokenBinding| {
        let source = &b.spec.source;
        source.impersonation.is_some() || source.metadata_server.is_some() || source.signed_jwt.is_some()
    };
    bindings
        .state()
        .iter()
        .filter(|b| uses_operator(b) && also(b))
        .map(|b| ObjectRef::from_obj(b.as_ref()))
        .collect()
}

/// What grants mean: their specs, and which of them are on their way out. Their status, which this controller writes itself, wakes
/// nobody.
fn versions(grants: &[Arc<IdTokenGrant>]) -> BTreeMap<Option<String>, (Option<i64>, bool)> {
    let version = |grant: &Arc<IdTokenGrant>| {
        let meta = &grant.metadata;
        (meta.uid.clone(), (meta.generation, meta.deletion_timestamp.is_some()))
    };
    grants.iter().map(version).collect()
}

/// Bindings whose source names one of `objects` of their namespace.
fn users_of<K>(
    bindings: &Cache<IdTokenBinding>,
    objects: &[PartialObjectMeta<K>],
    names: fn(&binding::Source) -> Vec<&str>,
) -> Vec<ObjectRef<IdTokenBinding>> {
    let of = |object: &'_ PartialObjectMeta<K>| {
        Some((object.metadata.namespace.clone()?, object.metadata.name.clone()?))
    };
    let touched: HashSet<(String, String)> = objects.iter().filter_map(of).collect();
    let uses = |b: &IdTokenBinding| {
        let namespace = b.metadata.namespace.as_deref().unwrap_or_default();
        names(&b.spec.source).iter().any(|name| touched.contains(&(namespace.to_owned(), (*name).to_owned())))
    };
    bindings.state().iter().filter(|b| uses(b)).map(|b| ObjectRef::from_obj(b.as_ref())).collect()
}

fn secret_names(source: &binding::Source) -> Vec<&str> {
    let files = [&source.service_account_key, &source.user_credentials];
    let files = files.into_iter().flatten().map(|source| &source.secret_ref);
    let user = source.identity_platform.iter();
    let user = user.flat_map(|p| [&p.api_key_secret_ref, &p.email_secret_ref, &p.password_secret_ref]);
    files.chain(user).map(|secret| secret.name.as_str()).collect()
}

fn account_names(source: &binding::Source) -> Vec<&str> {
    source.kubernetes_service_account.iter().map(|account| account.name.as_str()).collect()
}

fn owner_of(secret: &PartialObjectMeta<Secret>) -> Option<ObjectRef<IdTokenBinding>> {
    let owners = secret.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "IdTokenBinding")?;
    Some(ObjectRef::new(&owner.name).within(secret.metadata.namespace.as_deref()?))
}

/// Objects that are matched with bindings together.
const AT_ONCE: usize = 1024;
/// Holds whole objects, and so the data of Secrets that were applied by kubectl.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn grant(metadata: &Value, bindings: i64) -> Arc<IdTokenGrant> {
        let grant = serde_json::from_value(json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": metadata,
            "spec": {"namespaces": {"all": true}, "identities": ["*"], "audiences": ["*"]}, "status": {"bindings": bindings},
        }));
        Arc::new(grant.unwrap())
    }

    #[test]
    fn a_grant_wakes_bindings_by_what_it_means_and_not_by_its_status() {
        let of = |metadata: Value, bindings| versions(&[grant(&metadata, bindings)]);
        let before = of(json!({"name": "a", "uid": "1", "generation": 1, "resourceVersion": "7"}), 0);
        assert_eq!(of(json!({"name": "a", "uid": "1", "generation": 1, "resourceVersion": "8"}), 3), before);
        for other in [
            json!({"name": "a", "uid": "1", "generation": 2}),
            json!({"name": "a", "uid": "2", "generation": 1}),
            json!({"name": "a", "uid": "1", "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ] {
            assert_ne!(of(other.clone(), 0), before, "{other}");
        }
        assert_ne!(versions(&[]), before);
    }
}
