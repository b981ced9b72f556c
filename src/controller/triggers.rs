//! The watches beside that of the bindings: they fill the caches and name the bindings that a change concerns.

use futures::{Stream, StreamExt as _, future::ready};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
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
    api::{IdTokenBinding, IdTokenGrant, SECRET_TYPE},
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

impl Triggers {
    /// Starts the watch of Secrets in each namespace.
    pub(super) fn secrets(&self) -> (Cache<PartialObjectMeta<Secret>>, Parts<Progress>) {
        let parts = self.scope.each(|namespace| {
            let of_our_type = watcher::Config::default().fields(&format!("type={SECRET_TYPE}"));
            let name = "the watch of Secrets";
            let (store, touched, progress) =
                self.watch(api(&self.client, namespace), of_our_type, name, namespace);
            self.forward(name, touched, |secret: PartialObjectMeta<Secret>| {
                owner_of(&secret).into_iter().collect()
            });
            (store, progress)
        });
        let (stores, progress) = parts.unzip();
        (Cache::of(stores), progress)
    }

    /// Starts the watches of grants and of namespaces, whose labels grants select by.
    pub(super) fn grants(&self) -> (Grants, Vec<Progress>) {
        let (every, name) = (Api::<IdTokenGrant>::all(self.client.clone()), "the watch of grants");
        let (grants, touched, known) = self.watch(every, watcher::Config::default(), name, None);
        let all = self.bindings.clone();
        self.forward(name, touched, move |_grant| concerned(&all, |_| true));
        let every = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let name = "the watch of namespaces";
        let (namespaces, touched, labelled) = self.watch(every, watcher::Config::default(), name, None);
        let all = self.bindings.clone();
        let of = move |namespace: PartialObjectMeta<Namespace>| {
            concerned(&all, |b| b.metadata.namespace == namespace.metadata.name)
        };
        self.forward(name, touched, of);
        (Grants::Watched { grants, namespaces }, vec![known, labelled])
    }

    /// Starts to follow a file of grants.
    pub(super) fn grants_file(&self, file: GrantsFile) -> (Grants, Vec<Progress>) {
        let (grants, work) = file.follow(self.stop.clone());
        tokio::spawn(self.health.vital("the reading of the grants file", work));
        let changes = futures::stream::unfold(grants.clone(), async |mut grants| {
            grants.changed().await.ok()?;
            Some((Ok(()), grants))
        });
        let all = self.bindings.clone();
        self.forward("the grants of the file", changes, move |()| concerned(&all, |_| true));
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
        let events = reflector(writer, watcher(api, config).default_backoff());
        let (events, progress) = follow(events, name, namespace, &self.refused);
        (store, events.touched_objects(), progress)
    }

    fn forward<K: Send + 'static>(
        &self,
        name: &'static str,
        touched: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
        concerned: impl Fn(K) -> Vec<ObjectRef<IdTokenBinding>> + Send + 'static,
    ) {
        let (wakes, stop) = (self.wakes.clone(), self.stop.clone());
        let refs = touched
            .filter_map(|item| ready(item.ok()))
            .flat_map(move |object| futures::stream::iter(concerned(object)))
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

fn owner_of(secret: &PartialObjectMeta<Secret>) -> Option<ObjectRef<IdTokenBinding>> {
    let owners = secret.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "IdTokenBinding")?;
    Some(ObjectRef::new(&owner.name).within(secret.metadata.namespace.as_deref()?))
}
