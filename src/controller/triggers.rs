//! The watches beside that of the bindings: they fill the caches and name the bindings that a change concerns.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures::{Stream, StreamExt as _, TryStreamExt as _, future::ready};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, reflector, store},
        watcher::{self, Event, watcher},
    },
};
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use super::{
    bindings::Bindings,
    context::Grants,
    grants_file::GrantsFile,
    packed::Secrets,
    queue::{Name, Queue},
};
use crate::{
    api::{IdTokenGrant, SECRET_TYPE, annotations},
    cache::{
        Cache, Parts, Scope, api,
        fill::{Progress, follow},
        index::Index,
        light::{Light, lighten},
    },
    plan::grant::selects,
    telemetry::health::Health,
};

/// Starts watches, and tells the queue whom a change concerns.
pub(super) struct Triggers {
    pub client: Client,
    pub scope: Scope,
    /// Consulted for whom a change concerns.
    pub bindings: Bindings,
    /// Told of them.
    pub queue: Queue,
    pub health: Health,
    /// How many of the watches are refused now.
    pub refused: Gauge,
    pub stop: CancellationToken,
}

/// What is watched in each namespace, metadata only.
pub(super) struct Namespaced {
    /// Secrets of our type.
    pub secrets: Secrets,
    /// Secrets that bindings may use as credentials.
    pub credentials: Cache<Light<Secret>>,
    /// `None`: this installation does not serve them as source.
    pub accounts: Option<Cache<Light<ServiceAccount>>>,
}

impl Triggers {
    /// Starts the watches of our Secrets, of Secrets that are credentials, and of ServiceAccounts where these are sources, in
    /// each namespace.
    pub(super) fn namespaced(&self, accounts: bool) -> (Namespaced, Parts<Vec<Progress>>) {
        let (secrets, filling) = self.secrets();
        let labelled = watcher::Config::default().labels(&format!("{}=true", annotations::CREDENTIAL));
        let all = self.bindings.clone();
        let (credentials, labelled) =
            self.watch_each("the watch of credentials", &labelled, move |secrets: Vec<Light<Secret>>| {
                users_of(&all, &secrets)
            });
        let filling = filling.zip(labelled).map(|(ours, labelled)| vec![ours, labelled]);
        if !accounts {
            return (Namespaced { secrets, credentials, accounts: None }, filling);
        }
        let (all, every) = (self.bindings.clone(), watcher::Config::default());
        let (accounts, listed) = self.watch_each(
            "the watch of ServiceAccounts",
            &every,
            move |accounts: Vec<Light<ServiceAccount>>| users_of(&all, &accounts),
        );
        let filling = filling.zip(listed).map(|(mut all, listed)| {
            all.push(listed);
            all
        });
        (Namespaced { secrets, credentials, accounts: Some(accounts) }, filling)
    }

    /// Starts the watch of our Secrets in each namespace.
    fn secrets(&self) -> (Secrets, Parts<Progress>) {
        let name = "the watch of Secrets";
        let ours = watcher::Config::default().fields(&format!("type={SECRET_TYPE}")).page_size(PAGE);
        let parts = self.scope.each(|namespace| {
            let index = Index::default();
            let mut write = index.writer(Secrets::pack);
            let events = watcher(api::<Light<Secret>>(&self.client, namespace), ours.clone());
            let events = events.default_backoff().inspect_ok(move |event| write(event));
            let (events, progress) = follow(events, name, namespace, &self.refused);
            let owners = |secrets: Vec<_>| secrets.iter().filter_map(owner_of).collect();
            self.forward(name, touched(events).filter_map(|secret| ready(secret.transpose())), owners);
            (index, progress)
        });
        let (indices, progress) = parts.unzip();
        (Secrets::of(indices), progress)
    }

    /// Starts a watch of metadata in each namespace.
    fn watch_each<K>(
        &self,
        name: &'static str,
        config: &watcher::Config,
        concerned: impl Fn(Vec<Light<K>>) -> Vec<Name> + Clone + Send + 'static,
    ) -> (Cache<Light<K>>, Parts<Progress>)
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
            let touched = touched.filter_map(|object| ready(object.transpose()));
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
        let every = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let label = "the watch of namespaces";
        let (namespaces, relabelled, labelled) = self.watch(every, watcher::Config::default(), label, None);

        // Both compare what the cache holds then: the end of a list can be the only word of what went while nothing was heard.
        let (all, current, labels) = (self.bindings.clone(), grants.clone(), namespaces.clone());
        let mut before = Vec::new();
        self.forward(name, touched, move |_touched| {
            let now = current.state();
            let changed = changed(&before, &now);
            before = now;
            // Most often it was our own word on who uses them.
            if changed.is_empty() {
                return Vec::new();
            }
            // Whatever their source is: what stands in their Secrets may be of an earlier one.
            all.names(|namespace| may_concern(&changed, namespace, &labels))
        });
        let (all, current, mut before) = (self.bindings.clone(), namespaces.clone(), BTreeMap::new());
        self.forward(label, relabelled, move |_touched| {
            let now = labels_of(&current.state());
            let is_new = |namespace: &str| before.get(namespace) != now.get(namespace);
            let names = if before == now { Vec::new() } else { all.names(is_new) };
            before = now;
            names
        });
        let watches = vec![known, labelled];
        (Grants::Watched { grants, namespaces, watches: watches.clone() }, watches)
    }

    /// Starts to follow a file of grants.
    pub(super) fn grants_file(&self, file: GrantsFile) -> (Grants, Vec<Progress>) {
        let (grants, work) = file.follow(self.stop.clone());
        tokio::spawn(self.health.vital("the reading of the grants file", work));
        let changes = grants.changes();
        let all = self.bindings.clone();
        self.forward("the grants of the file", changes, move |_changes: Vec<()>| all.names(|_| true));
        (Grants::File(grants), Vec::new())
    }

    /// A cache, the stream that fills it when somebody takes from it, and how far that is.
    fn watch<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        name: &'static str,
        namespace: Option<&str>,
    ) -> (Store<K>, impl Stream<Item = Result<Option<K>, watcher::Error>> + Send + use<K>, Progress)
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
        let events = watcher(api, config).default_backoff().modify(|object| lighten(object.meta_mut()));
        let events = reflector(writer, events);
        let (events, progress) = follow(events, name, namespace, &self.refused);
        (store, touched(events), progress)
    }

    fn forward<K: Send + 'static>(
        &self,
        name: &'static str,
        touched: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
        mut concerned: impl FnMut(Vec<K>) -> Vec<Name> + Send + 'static,
    ) {
        let (queue, stop) = (self.queue.clone(), self.stop.clone());
        let touched = touched
            .filter_map(|item| ready(item.ok()))
            // Whatever came at once, as a first list does, is matched with all bindings at once.
            .ready_chunks(AT_ONCE)
            .take_until(stop.cancelled_owned());
        let work = touched.for_each(move |objects| {
            for name in concerned(objects) {
                queue.wake(name);
            }
            ready(())
        });
        tokio::spawn(self.health.vital(name, work));
    }
}

/// What was touched, and nothing at the end of a list, when the cache has it.
fn touched<K: Send>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = Result<Option<K>, watcher::Error>> + Send {
    events.filter_map(|event| {
        ready(match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                Some(Ok(Some(object)))
            }
            Ok(Event::InitDone) => Some(Ok(None)),
            Ok(Event::Init) => None,
            Err(error) => Some(Err(error)),
        })
    })
}

/// The old and the new version of each grant that means something else now. Its status, which this controller writes itself, means
/// nothing.
fn changed(before: &[Arc<IdTokenGrant>], now: &[Arc<IdTokenGrant>]) -> Vec<Arc<IdTokenGrant>> {
    let version = |grant: &Arc<IdTokenGrant>| {
        let meta = &grant.metadata;
        (meta.uid.clone(), meta.generation, meta.deletion_timestamp.is_some())
    };
    let [old, new] = [before, now].map(|grants| grants.iter().map(version).collect::<HashSet<_>>());
    let gone = before.iter().filter(|grant| !new.contains(&version(grant)));
    gone.chain(now.iter().filter(|grant| !old.contains(&version(grant)))).cloned().collect()
}

/// Whether one of `grants` is for `namespace`. One that the cache does not know yet has its own event.
fn may_concern(
    grants: &[Arc<IdTokenGrant>],
    namespace: &str,
    namespaces: &Store<PartialObjectMeta<Namespace>>,
) -> bool {
    let known = namespaces.get(&ObjectRef::new(namespace));
    let none = BTreeMap::new();
    let labels = known.as_ref().map(|known| known.metadata.labels.as_ref().unwrap_or(&none));
    grants.iter().any(|grant| selects(&grant.spec.namespaces, namespace, labels))
}

/// The labels of each namespace.
fn labels_of(namespaces: &[Arc<PartialObjectMeta<Namespace>>]) -> BTreeMap<String, BTreeMap<String, String>> {
    let of = |namespace: &Arc<PartialObjectMeta<Namespace>>| {
        let meta = &namespace.metadata;
        Some((meta.name.clone()?, meta.labels.clone().unwrap_or_default()))
    };
    namespaces.iter().filter_map(of).collect()
}

/// Bindings whose source names one of `objects` of their namespace.
fn users_of<K>(bindings: &Bindings, objects: &[Light<K>]) -> Vec<Name> {
    let mut touched: HashMap<&str, HashSet<&str>> = HashMap::new();
    for object in objects {
        if let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) {
            touched.entry(namespace).or_default().insert(name);
        }
    }
    bindings.users(|namespace, name| touched.get(namespace).is_some_and(|names| names.contains(name)))
}

fn owner_of(secret: &Light<Secret>) -> Option<Name> {
    let owners = secret.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "IdTokenBinding")?;
    Some(Name::new(secret.metadata.namespace.as_deref()?, &owner.name))
}

/// Objects that are matched with bindings together.
const AT_ONCE: usize = 1024;
/// Objects that a list brings at once: each page is in memory whole before it is made smaller.
pub(super) const PAGE: u32 = 100;

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
        let before = grant(&json!({"name": "a", "uid": "1", "generation": 1, "resourceVersion": "7"}), 0);
        let written = grant(&json!({"name": "a", "uid": "1", "generation": 1, "resourceVersion": "8"}), 3);
        assert_eq!(changed(std::slice::from_ref(&before), &[written]), []);
        for other in [
            json!({"name": "a", "uid": "1", "generation": 2}),
            json!({"name": "a", "uid": "2", "generation": 1}),
            json!({"name": "a", "uid": "1", "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ] {
            let other = grant(&other, 0);
            let both = [before.clone(), other.clone()];
            assert_eq!(changed(std::slice::from_ref(&before), std::slice::from_ref(&other)), both);
        }
        assert_eq!(changed(std::slice::from_ref(&before), &[]), std::slice::from_ref(&before));
        assert_eq!(changed(&[], std::slice::from_ref(&before)), std::slice::from_ref(&before));
    }

    #[test]
    fn a_changed_grant_concerns_the_namespaces_that_it_names_or_selects_and_no_others() {
        let of = |namespaces: Value| {
            let mut of = grant(&json!({"name": "a"}), 0).as_ref().clone();
            of.spec.namespaces = serde_json::from_value(namespaces).unwrap();
            vec![Arc::new(of)]
        };
        let (known, mut writer) = store();
        let namespace = |name: &str, team: &str| {
            let meta = json!({"metadata": {"name": name, "labels": {"team": team}}});
            serde_json::from_value::<PartialObjectMeta<Namespace>>(meta).unwrap()
        };
        writer.apply_watcher_event(&Event::Apply(namespace("shop", "orders")));
        writer.apply_watcher_event(&Event::Apply(namespace("bank", "money")));
        let concerns = |namespaces: Value| {
            ["shop", "bank", "new"].map(|name| may_concern(&of(namespaces.clone()), name, &known))
        };
        assert_eq!(concerns(json!({"names": ["shop", "new"]})), [true, false, true]);
        assert_eq!(concerns(json!({"selector": {"matchLabels": {"team": "money"}}})), [false, true, false]);
        assert_eq!(concerns(json!({"all": true})), [true, true, true]);
    }

    #[tokio::test]
    async fn a_list_without_any_grant_is_told_at_its_end_so_that_the_last_one_is_missed() {
        let (store, writer) = store::<IdTokenGrant>();
        let last = grant(&json!({"name": "a", "uid": "1", "generation": 1}), 0).as_ref().clone();
        // A gap in the watch, and then a list of nothing.
        let events = [Event::Init, Event::InitApply(last), Event::InitDone, Event::Init, Event::InitDone];
        let touched = touched(reflector(writer, futures::stream::iter(events.map(Ok))));
        let (mut before, mut told) = (Vec::new(), Vec::new());
        let mut touched = std::pin::pin!(touched);
        while touched.next().await.is_some() {
            let now = store.state();
            told.push(changed(&before, &now).len());
            before = now;
        }
        assert_eq!(
            told,
            [0, 1, 1],
            "an object, which is not in the cache yet; the end of the list; the end of an empty one"
        );
    }
}
