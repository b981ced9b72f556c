//! The bindings that there are, reduced to what a review needs: what a watch brings of each is parsed no further than that, so
//! that a cache of ten thousand takes a few megabytes.
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt as _, runtime::watcher::Event};
use serde::{Deserialize, Deserializer};

use crate::{
    api::{IdTokenBinding, binding::SecretTarget},
    plan::inject::BindingFacts,
};

/// An `IdTokenBinding` as far as the webhook reads it.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "IdTokenBinding")]
pub struct Seen {
    #[serde(deserialize_with = "identifying")]
    metadata: ObjectMeta,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    #[serde(default)]
    secret: SecretTarget,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_time: Option<Timestamp>,
}

impl Seen {
    /// What a review needs.
    #[must_use]
    pub fn facts(self) -> BindingFacts {
        let target = self.spec.secret;
        BindingFacts {
            secret_name: target.name_for(&self.metadata.name.unwrap_or_default()),
            key: target.key,
            authorization_key: Some(target.authorization_key).filter(|key| !key.is_empty()),
            expiration_time: self.status.expiration_time,
        }
    }
}

/// What says which object it is, and which version of it. Most of what else stands in there is `managedFields`.
fn identifying<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Identifying {
        name: Option<String>,
        namespace: Option<String>,
        resource_version: Option<String>,
    }
    let Identifying { name, namespace, resource_version } = Identifying::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() })
}

/// The bindings of which a watch has told. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Index(Arc<RwLock<Known>>);

/// By namespace and name.
type Known = HashMap<Box<str>, HashMap<Box<str>, Kept>>;

/// How a binding differs from what one of its name is assumed to be, which most of them do not.
#[derive(Clone, Debug)]
struct Kept {
    secret_name: Option<Box<str>>,
    key: Option<Box<str>>,
    authorization_key: Option<Box<str>>,
    expiration_time: Option<Timestamp>,
}

impl Kept {
    fn of(name: &str, facts: BindingFacts) -> Self {
        let assumed = BindingFacts::assumed(name);
        let unlike = |text: String, assumed: &str| (text != assumed).then(|| text.into_boxed_str());
        Self {
            secret_name: unlike(facts.secret_name, &assumed.secret_name),
            key: unlike(facts.key, &assumed.key),
            authorization_key: facts.authorization_key.map(String::into_boxed_str),
            expiration_time: facts.expiration_time,
        }
    }

    fn facts(&self, name: &str) -> BindingFacts {
        let assumed = BindingFacts::assumed(name);
        let owned = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        BindingFacts {
            secret_name: owned(&self.secret_name).unwrap_or(assumed.secret_name),
            key: owned(&self.key).unwrap_or(assumed.key),
            authorization_key: owned(&self.authorization_key),
            expiration_time: self.expiration_time,
        }
    }
}

impl Index {
    /// The binding `name` of `namespace`, if it was seen.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<BindingFacts> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(known.get(namespace)?.get(name)?.facts(name))
    }

    /// What takes over what a watch brings, event by event; nothing is left of the events but what they are. What is known stays
    /// while the watch begins anew.
    pub fn writer(&self) -> impl FnMut(Event<Seen>) -> Event<()> + use<> {
        let (index, mut filling) = (self.clone(), Known::new());
        move |event| match event {
            Event::Init => {
                filling.clear();
                Event::Init
            }
            Event::InitApply(binding) => {
                insert(&mut filling, binding);
                Event::InitApply(())
            }
            Event::InitDone => {
                index.change(|known| *known = std::mem::take(&mut filling));
                Event::InitDone
            }
            Event::Apply(binding) => {
                index.change(|known| insert(known, binding));
                Event::Apply(())
            }
            Event::Delete(binding) => {
                index.change(|known| remove(known, &binding));
                Event::Delete(())
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn insert(known: &mut Known, binding: Seen) {
    let (namespace, name) = (binding.namespace().unwrap_or_default(), binding.name_any());
    let kept = Kept::of(&name, binding.facts());
    known.entry(namespace.into()).or_default().insert(name.into(), kept);
}

fn remove(known: &mut Known, binding: &Seen) {
    let namespace = binding.namespace().unwrap_or_default();
    if let Some(bindings) = known.get_mut(namespace.as_str()) {
        bindings.remove(binding.name_any().as_str());
        if bindings.is_empty() {
            known.remove(namespace.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(namespace: &str, name: &str, key: &str) -> Seen {
        serde_json::from_value(json!({
            "apiVersion": "idtoken.dev/v1alpha1",
            "kind": "IdTokenBinding",
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"audience": "a", "source": {"metadataServer": {}}, "secret": {"key": key}},
        }))
        .unwrap()
    }

    fn key(index: &Index, namespace: &str, name: &str) -> Option<String> {
        index.get(namespace, name).map(|facts| facts.key)
    }

    #[test]
    fn what_a_review_needs_is_read_and_nothing_else() {
        let all = json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "1", "resourceVersion": "7"},
            "spec": {
                "audience": "https://orders-abc-uc.a.run.app",
                "source": {"fromTheFuture": {}},
                "secret": {"name": "token", "key": "jwt", "authorizationKey": "header"},
            },
            "status": {"expirationTime": "2026-11-22T13:00:00Z", "conditions": 1},
        });
        let seen: Seen = serde_json::from_value(all).unwrap();
        assert_eq!(seen.resource_version().as_deref(), Some("7"));
        assert_eq!(
            seen.facts(),
            BindingFacts {
                secret_name: "token".into(),
                key: "jwt".into(),
                authorization_key: Some("header".into()),
                expiration_time: Some("2026-11-22T13:00:00Z".parse().unwrap()),
            }
        );
        let least: Seen =
            serde_json::from_value(json!({"metadata": {"name": "orders"}, "spec": {}})).unwrap();
        assert_eq!(least.facts(), BindingFacts::assumed("orders"));
    }

    #[test]
    fn names_of_its_own_are_kept_too() {
        let own = json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"secret": {"name": "token", "key": "jwt", "authorizationKey": "header"}},
            "status": {"expirationTime": "2026-11-22T13:00:00Z"},
        });
        let index = Index::default();
        index.writer()(Event::Apply(serde_json::from_value(own).unwrap()));
        assert_eq!(
            index.get("shop", "orders"),
            Some(BindingFacts {
                secret_name: "token".into(),
                key: "jwt".into(),
                authorization_key: Some("header".into()),
                expiration_time: Some("2026-11-22T13:00:00Z".parse().unwrap()),
            })
        );
        index.writer()(Event::Apply(binding("shop", "stock", "id_token")));
        assert_eq!(index.get("shop", "stock"), Some(BindingFacts::assumed("stock")));
    }

    #[test]
    fn it_keeps_up_with_the_watch() {
        let index = Index::default();
        let mut see = index.writer();
        for event in [Event::Init, Event::InitApply(binding("shop", "orders", "1"))] {
            see(event);
        }
        assert_eq!(key(&index, "shop", "orders"), None, "not before all is there");
        see(Event::InitDone);
        assert_eq!(key(&index, "shop", "orders").as_deref(), Some("1"));
        assert_eq!((key(&index, "bank", "orders"), key(&index, "shop", "stock")), (None, None));
        see(Event::Apply(binding("shop", "orders", "2")));
        see(Event::Apply(binding("shop", "stock", "3")));
        assert_eq!(key(&index, "shop", "orders").as_deref(), Some("2"));
        see(Event::Delete(binding("shop", "stock", "3")));
        see(Event::Delete(binding("bank", "stock", "3")));
        assert_eq!(
            (key(&index, "shop", "stock"), key(&index, "shop", "orders").as_deref()),
            (None, Some("2"))
        );
    }

    #[test]
    fn a_watch_that_begins_anew_takes_nothing_away_until_it_has_all() {
        let index = Index::default();
        let mut see = index.writer();
        for event in
            [Event::Init, Event::InitApply(binding("shop", "orders", "1")), Event::InitDone, Event::Init]
        {
            see(event);
        }
        // The attempt fails, and is made once more.
        for event in [Event::InitApply(binding("shop", "torn", "1")), Event::Init] {
            see(event);
        }
        see(Event::InitApply(binding("shop", "stock", "1")));
        assert_eq!(key(&index, "shop", "orders").as_deref(), Some("1"));
        see(Event::InitDone);
        assert_eq!((key(&index, "shop", "orders"), key(&index, "shop", "torn")), (None, None));
        assert_eq!(key(&index, "shop", "stock").as_deref(), Some("1"));
    }
}
