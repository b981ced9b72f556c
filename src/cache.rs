//! Caches that watches fill, over the whole cluster or over some namespaces: then nothing is asked of the API server that
//! a Role in each of them would not allow.

pub mod fill;
pub mod index;
pub mod light;

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    runtime::reflector::{ObjectRef, Store},
};

/// The namespaces that are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(BTreeSet<String>);

impl Scope {
    /// These namespaces; all of the cluster where none is named.
    pub fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self(namespaces.into_iter().filter(|name| !name.is_empty()).collect())
    }

    /// Whether all of the cluster is looked at.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `namespace` is looked at.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.is_empty() || self.0.contains(namespace)
    }

    /// Something for each namespace, or once for all of them (`None`).
    pub fn each<T>(&self, make: impl FnMut(Option<&str>) -> T) -> Parts<T> {
        let names: Vec<Option<&str>> = match self.0.len() {
            0 => vec![None],
            _ => self.0.iter().map(|name| Some(name.as_str())).collect(),
        };
        let made = names.iter().copied().map(make).collect::<Vec<_>>();
        Parts(names.into_iter().map(|name| name.map(str::to_owned)).zip(made).collect())
    }
}

/// What there is to list and watch in `namespace`, or in all of them.
#[must_use]
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        None => Api::all(client.clone()),
        Some(namespace) => Api::namespaced(client.clone(), namespace),
    }
}

/// A thing for each namespace of a [`Scope`], or one for all.
#[derive(Clone, Debug)]
pub struct Parts<T>(Vec<(Option<String>, T)>);

impl<T> Parts<T> {
    /// The one that is responsible for `namespace`.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<&T> {
        let (_, part) =
            self.0.iter().find(|(name, _)| name.as_deref().is_none_or(|name| name == namespace))?;
        Some(part)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, part)| part)
    }

    /// All of them, each turned into something else.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> Parts<U> {
        Parts(self.0.into_iter().map(|(name, part)| (name, change(part))).collect())
    }

    /// All of them, in no need of their names.
    pub fn into_all(self) -> impl Iterator<Item = T> {
        self.0.into_iter().map(|(_, part)| part)
    }
}

impl<A> Parts<A> {
    /// Each together with the one that `other` has for the same namespace; both are of one scope.
    #[must_use]
    pub fn zip<B>(self, other: Parts<B>) -> Parts<(A, B)> {
        Parts(self.0.into_iter().zip(other.0).map(|((name, a), (_, b))| (name, (a, b))).collect())
    }
}

impl<A, B> Parts<(A, B)> {
    /// Pairs taken apart.
    #[must_use]
    pub fn unzip(self) -> (Parts<A>, Parts<B>) {
        let (first, second) = self.0.into_iter().map(|(name, (a, b))| ((name.clone(), a), (name, b))).unzip();
        (Parts(first), Parts(second))
    }
}

/// Objects of a namespaced kind.
#[derive(Clone)]
pub struct Cache<K: Resource<DynamicType = ()> + 'static>(Parts<Store<K>>);

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    /// Of the stores that watches fill.
    #[must_use]
    pub fn of(stores: Parts<Store<K>>) -> Self {
        Self(stores)
    }

    /// The object `name` of `namespace`, if it was seen.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0.of(namespace)?.get(&ObjectRef::new(name).within(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(names: &[&str]) -> Scope {
        Scope::new(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn no_name_means_all() {
        for all in [scope(&[]), scope(&[""])] {
            assert!(all.contains("shop") && all.is_all());
            let parts = all.each(|name| name.map(str::to_owned));
            assert_eq!(parts.iter().collect::<Vec<_>>(), [&None]);
            assert_eq!(parts.of("shop"), Some(&None));
        }
    }

    #[test]
    fn each_name_has_its_own_part_once_and_others_have_none() {
        let some = scope(&["shop", "bank", "shop"]);
        assert!(some.contains("shop") && !some.contains("shops") && !some.is_all());
        let parts = some.each(|name| name.map(str::to_owned)).map(Option::unwrap_or_default);
        assert_eq!(parts.iter().collect::<Vec<_>>(), ["bank", "shop"]);
        assert_eq!(parts.of("shop").map(String::as_str), Some("shop"));
        assert_eq!(parts.of("other"), None);
    }
}
