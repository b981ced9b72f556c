//! What watches tell of objects, as small as it may be kept.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use kube::{Resource, ResourceExt as _, runtime::watcher::Event};

/// What is kept, `T`, of each object of which a watch has told. Cloning shares it.
#[derive(Debug)]
pub struct Index<T>(Arc<RwLock<Known<T>>>);

/// By namespace and name. In order, and as trees: a hash table takes three times its size while it grows.
type Known<T> = BTreeMap<Box<str>, BTreeMap<Box<str>, T>>;

impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Index<T> {
    /// What `read` makes of what is kept of the object `name` of `namespace`, if it was seen.
    pub fn get<R>(&self, namespace: &str, name: &str, read: impl FnOnce(&T) -> R) -> Option<R> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(read(known.get(namespace)?.get(name)?))
    }

    /// Shows `see` the namespace and the name of each object in the namespaces that are `wanted`, in order, and what is kept of it.
    pub fn each(&self, wanted: impl Fn(&str) -> bool, mut see: impl FnMut(&str, &str, &T)) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (namespace, objects) in known.iter().filter(|(namespace, _)| wanted(namespace)) {
            for (name, kept) in objects {
                see(namespace, name, kept);
            }
        }
    }

    /// What takes over what a watch brings, event by event: of each object what `keep` makes of it. What is known stays while the watch
    /// begins anew.
    pub fn writer<K, F>(&self, keep: F) -> impl FnMut(&Event<K>) + use<K, F, T>
    where
        K: Resource,
        F: Fn(&K) -> T,
    {
        let (index, mut filling) = (self.clone(), Known::new());
        move |event| match event {
            Event::Init => filling.clear(),
            Event::InitApply(object) => insert(&mut filling, object, keep(object)),
            Event::InitDone => index.change(|known| *known = std::mem::take(&mut filling)),
            Event::Apply(object) => {
                let kept = keep(object);
                index.change(|known| insert(known, object, kept));
            }
            Event::Delete(object) => index.change(|known| remove(known, object)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known<T>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn insert<K: Resource, T>(known: &mut Known<T>, object: &K, kept: T) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    known.entry(namespace.into()).or_default().insert(name.into(), kept);
}

fn remove<K: Resource, T>(known: &mut Known<T>, object: &K) {
    let namespace = object.namespace().unwrap_or_default();
    if let Some(objects) = known.get_mut(namespace.as_str()) {
        objects.remove(object.name_any().as_str());
        if objects.is_empty() {
            known.remove(namespace.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn secret(namespace: &str, name: &str, version: &str) -> Secret {
        let [namespace, name, version] = [namespace, name, version].map(|text| Some(text.to_owned()));
        let metadata = ObjectMeta { namespace, name, resource_version: version, ..ObjectMeta::default() };
        Secret { metadata, ..Secret::default() }
    }

    /// An index of versions.
    fn index() -> (Index<Option<String>>, impl FnMut(Event<Secret>)) {
        let index = Index::default();
        let mut see = index.writer(|secret: &Secret| secret.resource_version());
        (index, move |event| see(&event))
    }

    fn version(index: &Index<Option<String>>, namespace: &str, name: &str) -> Option<String> {
        index.get(namespace, name, Clone::clone).flatten()
    }

    #[test]
    fn it_keeps_up_with_the_watch() {
        let (index, mut see) = index();
        see(Event::Init);
        see(Event::InitApply(secret("shop", "orders", "1")));
        assert_eq!(version(&index, "shop", "orders"), None, "not before all is there");
        see(Event::InitDone);
        assert_eq!(version(&index, "shop", "orders").as_deref(), Some("1"));
        assert_eq!((version(&index, "bank", "orders"), version(&index, "shop", "stock")), (None, None));
        see(Event::Apply(secret("shop", "orders", "2")));
        see(Event::Apply(secret("shop", "stock", "3")));
        assert_eq!(version(&index, "shop", "orders").as_deref(), Some("2"));
        see(Event::Delete(secret("shop", "stock", "3")));
        see(Event::Delete(secret("bank", "stock", "3")));
        assert_eq!(
            (version(&index, "shop", "stock"), version(&index, "shop", "orders").as_deref()),
            (None, Some("2"))
        );
    }

    #[test]
    fn each_shows_what_is_wanted_in_order() {
        let (index, mut see) = index();
        for (namespace, name) in [("shop", "stock"), ("bank", "money"), ("shop", "orders")] {
            see(Event::Apply(secret(namespace, name, "1")));
        }
        let all = |wanted: fn(&str) -> bool| {
            let mut seen = Vec::new();
            index.each(wanted, |namespace, name, version| {
                seen.push(format!("{namespace}/{name}@{}", version.as_deref().unwrap()));
            });
            seen
        };
        assert_eq!(all(|_| true), ["bank/money@1", "shop/orders@1", "shop/stock@1"]);
        assert_eq!(all(|namespace| namespace == "shop"), ["shop/orders@1", "shop/stock@1"]);
    }

    #[test]
    fn a_watch_that_begins_anew_takes_nothing_away_until_it_has_all() {
        let (index, mut see) = index();
        for event in
            [Event::Init, Event::InitApply(secret("shop", "orders", "1")), Event::InitDone, Event::Init]
        {
            see(event);
        }
        // The attempt fails, and is made once more.
        for event in [Event::InitApply(secret("shop", "torn", "1")), Event::Init] {
            see(event);
        }
        see(Event::InitApply(secret("shop", "stock", "1")));
        assert_eq!(version(&index, "shop", "orders").as_deref(), Some("1"));
        see(Event::InitDone);
        assert_eq!((version(&index, "shop", "orders"), version(&index, "shop", "torn")), (None, None));
        assert_eq!(version(&index, "shop", "stock").as_deref(), Some("1"));
    }
}
