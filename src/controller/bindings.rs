//! The bindings that there are, packed, since at any time nearly all of them rest.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use jiff::Timestamp;
use kube::runtime::watcher::Event;

use super::{packed::Packed, queue::Name};
use crate::{
    api::{IdTokenBinding, binding::Source},
    cache::{Parts, index::Index},
};

/// The bindings of each namespace that is served. Cloning shares them.
#[derive(Clone)]
pub(super) struct Bindings(Parts<Index<Resting>>);

/// A binding, and what is looked at more often than at all of it.
#[derive(Debug)]
pub(super) struct Resting {
    packed: Packed,
    uid: Arc<str>,
    /// `status.expirationTime`.
    expires: Option<Timestamp>,
    /// What its source names of its namespace.
    uses: Box<[Box<str>]>,
    /// `None`: it is on its way out.
    asks: Option<u64>,
}

impl Bindings {
    /// Those that watches tell of.
    pub(super) fn of(parts: Parts<Index<Resting>>) -> Self {
        Self(parts)
    }

    /// The binding `name` of `namespace`, if it was seen.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<IdTokenBinding> {
        let packed = self.0.of(namespace)?.get(namespace, name, |binding| binding.packed.clone())?;
        let binding = packed.unpack();
        if binding.is_none() {
            tracing::error!(
                namespace,
                name,
                "an IdTokenBinding can't be unpacked and is not looked after; this is a bug"
            );
        }
        binding
    }

    /// Its UID and its `status.expirationTime`: what is looked at of thousands at once.
    pub(super) fn glance(&self, namespace: &str, name: &str) -> Option<(Arc<str>, Option<Timestamp>)> {
        self.0.of(namespace)?.get(namespace, name, |binding| (binding.uid.clone(), binding.expires))
    }

    /// Whether there is still the one of this UID, and it is not on its way out.
    pub(super) fn lives(&self, namespace: &str, name: &str, uid: &str) -> bool {
        let look = |binding: &Resting| *binding.uid == *uid && binding.asks.is_some();
        self.0.of(namespace).and_then(|of| of.get(namespace, name, look)).unwrap_or_default()
    }

    /// Those of the namespaces that `is_concerned`, but for those that are on their way out.
    pub(super) fn names(&self, is_concerned: impl Fn(&str) -> bool) -> Vec<Name> {
        let mut names = Vec::new();
        self.each(is_concerned, |namespace, name, binding| {
            names.extend(binding.asks.map(|_| Name::new(namespace, name)));
        });
        names
    }

    /// All of them, one after the other. While they are read, watches may change what there is.
    pub(super) fn all(&self) -> impl Iterator<Item = IdTokenBinding> + use<> {
        let mut packed = Vec::with_capacity(self.version().0);
        self.each(|_| true, |_, _, binding| packed.push(binding.packed.clone()));
        packed.into_iter().filter_map(|packed| packed.unpack())
    }

    /// Those whose source names a Secret or a ServiceAccount that is `touched`, by namespace and name.
    pub(super) fn users(&self, touched: impl Fn(&str, &str) -> bool) -> Vec<Name> {
        let mut users = Vec::new();
        self.each(
            |_| true,
            |namespace, name, binding| {
                if binding.uses.iter().any(|used| touched(namespace, used)) {
                    users.push(Name::new(namespace, name));
                }
            },
        );
        users
    }

    /// The UIDs of all.
    pub(super) fn uids(&self) -> HashSet<Arc<str>> {
        let mut uids = HashSet::with_capacity(self.version().0);
        self.each(|_| true, |_, _, binding| _ = uids.insert(binding.uid.clone()));
        uids
    }

    /// How many there are, and a number that changes where one of them asks for something else.
    pub(super) fn version(&self) -> (usize, u64) {
        let (mut count, mut version) = (0, 0_u64);
        self.each(
            |_| true,
            |_, _, binding| {
                count += 1;
                version = version.wrapping_add(binding.asks.unwrap_or_default());
            },
        );
        (count, version)
    }

    /// Shows `see` namespace, name and what is kept of each in the namespaces that are `wanted`.
    fn each(&self, wanted: impl Fn(&str) -> bool, mut see: impl FnMut(&str, &str, &Resting)) {
        for part in self.0.iter() {
            part.each(&wanted, &mut see);
        }
    }
}

impl Resting {
    /// Puts a binding to rest.
    pub(super) fn of(binding: &IdTokenBinding) -> Self {
        Self {
            packed: Packed::of(binding),
            uid: binding.metadata.uid.as_deref().unwrap_or_default().into(),
            expires: binding.status.as_ref().and_then(|status| status.expiration_time),
            uses: used(&binding.spec.source),
            asks: asks(binding),
        }
    }
}

/// Whether `event`, which `known` has not taken over yet, brings a binding that asks for something else than before. One that was not
/// there meanwhile (its label made it another release's) has missed its visits, and asks anew though it has not changed.
pub(super) fn asks_anew(known: &Index<Resting>, event: &Event<IdTokenBinding>) -> Option<Name> {
    let Event::Apply(binding) = event else { return None };
    let name = Name::of(binding);
    let before = known.get(&name.namespace, &name.name, |binding| binding.asks);
    (before != Some(asks(binding))).then_some(name)
}

/// The Secrets and ServiceAccounts that `source` names.
fn used(source: &Source) -> Box<[Box<str>]> {
    let files = [&source.service_account_key, &source.user_credentials];
    let files = files.into_iter().flatten().map(|source| &source.secret_ref);
    let user = source.identity_platform.iter();
    let user = user.flat_map(|p| [&p.api_key_secret_ref, &p.email_secret_ref, &p.password_secret_ref]);
    let secrets = files.chain(user).map(|secret| &secret.name);
    let accounts = source.kubernetes_service_account.iter().map(|account| &account.name);
    secrets.chain(accounts).map(|name| name.as_str().into()).collect()
}

/// What makes a visit of a binding, where it changes. Its status is our own work, and would make one for each that was made.
fn asks(binding: &IdTokenBinding) -> Option<u64> {
    let meta = &binding.metadata;
    let mut hasher = DefaultHasher::new();
    (&meta.uid, meta.generation, &meta.annotations).hash(&mut hasher);
    meta.deletion_timestamp.is_none().then(|| hasher.finish())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    use super::*;

    fn binding(namespace: &str, name: &str, leaves: bool) -> IdTokenBinding {
        let caller = json!({"impersonation": {"serviceAccount": "caller@p.iam.gserviceaccount.com", "delegates": ["d@p.iam.gserviceaccount.com"]}});
        calling(namespace, name, leaves, &caller)
    }

    /// One of which everything is set.
    fn calling(namespace: &str, name: &str, leaves: bool, source: &Value) -> IdTokenBinding {
        let condition = json!({
            "type": "Ready", "status": "True", "reason": "TokenFresh", "message": "until 14:00", "observedGeneration": 3,
            "lastTransitionTime": "2026-11-22T13:00:00Z",
        });
        let binding = json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
            "metadata": {
                "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "resourceVersion": "7", "generation": 3,
                "labels": {"a": "b"}, "annotations": {"c": "\"d\u{e9}"}, "deletionTimestamp": leaves.then_some("2026-11-22T13:30:00Z"),
                "finalizers": ["example.com/backup"], "creationTimestamp": "2026-11-22T12:00:00Z",
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "p", "uid": "2"}],
            },
            "spec": {
                "audience": "https://orders.example", "source": source, "suspend": true, "refresh": {"atLifetimePercent": 75},
                "secret": {"name": "token", "key": "id", "authorizationKey": "auth", "labels": {"e": "f"}, "annotations": {"g": "h"}},
            },
            "status": {
                "observedGeneration": 3, "conditions": [condition], "source": "impersonation", "secretName": "token", "secretResourceVersion": "9",
                "identity": "caller@p.iam.gserviceaccount.com", "issuer": "https://accounts.google.com", "issueTime": "2026-11-22T13:00:00Z",
                "expirationTime": "2026-11-22T14:00:00.123456789Z", "nextRefreshTime": "2026-11-22T13:36:00Z", "refusedAttempt": "abc",
                "notGrantedSince": "2026-11-22T13:10:00Z",
            },
        });
        serde_json::from_value(binding).unwrap()
    }

    /// With each source that there is, and what of its namespace it names.
    fn sources() -> Vec<(Value, &'static [&'static str])> {
        vec![
            (json!({"impersonation": {"serviceAccount": "caller@p.iam.gserviceaccount.com"}}), &[]),
            (json!({"metadataServer": {}}), &[]),
            (json!({"signedJwt": {"serviceAccount": "caller@p.iam.gserviceaccount.com"}}), &[]),
            (json!({"serviceAccountKey": {"secretRef": {"name": "sa", "key": "key.json"}}}), &["sa"]),
            (json!({"userCredentials": {"secretRef": {"name": "user", "key": "key.json"}}}), &["user"]),
            (
                json!({"identityPlatform": {
                    "tenantId": "t", "apiKeySecretRef": {"name": "api", "key": "k"}, "emailSecretRef": {"name": "login", "key": "e"},
                    "passwordSecretRef": {"name": "password", "key": "p"},
                }}),
                &["api", "login", "password"],
            ),
            (
                json!({"kubernetesServiceAccount": {
                    "name": "app", "googleServiceAccount": "app@p.iam.gserviceaccount.com", "workloadIdentityProvider": "//iam.googleapis.com/p",
                }}),
                &["app"],
            ),
        ]
    }

    /// Two that stay and one that leaves.
    fn bindings() -> Bindings {
        let index = Index::default();
        let mut write = index.writer(Resting::of);
        for (namespace, name, leaves) in
            [("shop", "orders", false), ("shop", "leaving", true), ("bank", "money", false)]
        {
            write(&Event::Apply(binding(namespace, name, leaves)));
        }
        Bindings::of(crate::cache::Scope::default().each(|_| index.clone()))
    }

    #[test]
    fn what_is_packed_is_the_same_when_it_is_unpacked() {
        let bindings = bindings();
        assert_eq!(bindings.get("shop", "orders"), Some(binding("shop", "orders", false)));
        assert_eq!(bindings.get("shop", "leaving"), Some(binding("shop", "leaving", true)));
        assert_eq!((bindings.get("shop", "money"), bindings.get("none", "orders")), (None, None));
    }

    #[test]
    fn whatever_its_source_is_it_is_the_same_when_it_is_unpacked_and_woken_by_what_that_names() {
        for (source, uses) in sources() {
            let index = Index::default();
            index.writer(Resting::of)(&Event::Apply(calling("shop", "orders", false, &source)));
            let bindings = Bindings::of(crate::cache::Scope::default().each(|_| index.clone()));
            assert_eq!(bindings.get("shop", "orders"), Some(calling("shop", "orders", false, &source)));
            for name in ["sa", "user", "api", "login", "password", "app", "orders"] {
                let woken = !bindings.users(|namespace, used| (namespace, used) == ("shop", name)).is_empty();
                assert_eq!(woken, uses.contains(&name), "by {name}, {source}");
            }
            assert_eq!(bindings.users(|namespace, _| namespace == "bank"), []);
        }
    }

    #[test]
    fn a_glance_shows_uid_and_expiry() {
        let (uid, expires) = bindings().glance("shop", "orders").unwrap();
        assert_eq!((&*uid, expires), ("uid-orders", "2026-11-22T14:00:00.123456789Z".parse().ok()));
        assert_eq!(bindings().glance("shop", "money"), None);
    }

    #[test]
    fn who_leaves_is_known_and_called_no_more() {
        let bindings = bindings();
        assert_eq!(bindings.names(|_| true), [Name::new("bank", "money"), Name::new("shop", "orders")]);
        assert_eq!(bindings.names(|namespace| namespace == "shop"), [Name::new("shop", "orders")]);
        let names = bindings.all().map(|binding| binding.metadata.name.unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["money", "leaving", "orders"]);
        assert_eq!(bindings.uids(), ["uid-money", "uid-orders", "uid-leaving"].map(Into::into).into());
        let lives =
            ["orders", "leaving", "money"].map(|name| bindings.lives("shop", name, &format!("uid-{name}")));
        assert_eq!(lives, [true, false, false]);
        assert!(!bindings.lives("shop", "orders", "uid-made-anew"));
    }

    #[test]
    fn the_version_changes_by_what_bindings_ask_and_not_by_their_statuses() {
        let index = Index::default();
        let mut write = index.writer(Resting::of);
        let bindings = Bindings::of(crate::cache::Scope::default().each(|_| index.clone()));
        let mut change = |change: fn(&mut IdTokenBinding)| {
            let mut changed = binding("shop", "orders", false);
            change(&mut changed);
            let event = Event::Apply(changed);
            let asks = asks_anew(&index, &event).is_some();
            write(&event);
            (asks, bindings.version())
        };
        let (_, first) = change(|_| ());
        assert_eq!(change(|binding| binding.status = None), (false, first));
        let mut versions = vec![first];
        for other in [
            |binding: &mut IdTokenBinding| binding.metadata.generation = Some(4),
            |binding: &mut IdTokenBinding| binding.metadata.uid = Some("other".to_owned()),
            |binding: &mut IdTokenBinding| binding.metadata.annotations = None,
            |binding: &mut IdTokenBinding| {
                binding.metadata.deletion_timestamp = "2026-11-22T13:30:00Z".parse().ok().map(Time);
            },
        ] {
            let (asks, version) = change(other);
            assert!(asks && version.0 == 1 && !versions.contains(&version), "{version:?} after {versions:?}");
            versions.push(version);
        }
    }
}
