//! Who uses a grant: what its status says.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::{Authority, Terms, selects};
use crate::{
    api::{IdTokenBinding, IdTokenGrant, IdTokenGrantStatus},
    plan::validate::validate,
};

/// The status of each of `grants`: who uses it, of those of `bindings` that use the operator's identity, are valid, and are not on their way
/// out. Each binding is looked at once, the patterns of each grant are parsed once, and each namespace, whose labels `labels` knows, is
/// selected once.
pub fn usage<'a>(
    grants: impl IntoIterator<Item = &'a IdTokenGrant>,
    bindings: impl IntoIterator<Item = impl Borrow<IdTokenBinding>>,
    labels: impl Fn(&str) -> Option<&'a BTreeMap<String, String>>,
) -> Vec<IdTokenGrantStatus> {
    let mut grants: Vec<_> = grants.into_iter().map(Used::new).collect();
    // Positions of the grants that are for a namespace.
    let mut selected: HashMap<String, Vec<usize>> = HashMap::new();
    for binding in bindings {
        let binding = binding.borrow();
        let meta = &binding.metadata;
        let (Some(namespace), Some(name)) = (meta.namespace.as_deref(), meta.name.as_deref()) else {
            continue;
        };
        if !selected.contains_key(namespace) {
            let labels = labels(namespace);
            let is_for = |at: &usize| selects(&grants[*at].grant.spec.namespaces, namespace, labels);
            selected.insert(namespace.to_owned(), (0..grants.len()).filter(is_for).collect());
        }
        let Some(candidates) = selected.get(namespace).filter(|grants| !grants.is_empty()) else { continue };
        let Some(authority) = authority(binding) else { continue };
        for at in candidates {
            grants[*at].count(namespace, name, &authority);
        }
    }
    grants.into_iter().map(Used::status).collect()
}

/// What a binding asks of grants; `None`: nothing.
fn authority(binding: &IdTokenBinding) -> Option<Authority> {
    let wanted = validate(binding).ok().filter(|_| binding.metadata.deletion_timestamp.is_none())?;
    Authority::of(&wanted)
}

/// A grant, and who uses it.
struct Used<'g> {
    grant: &'g IdTokenGrant,
    terms: Terms<'g>,
    bindings: i64,
    /// The first in order, as `namespace/name`.
    first: BTreeSet<String>,
}

impl<'g> Used<'g> {
    fn new(grant: &'g IdTokenGrant) -> Self {
        Self { grant, terms: Terms::of(&grant.spec), bindings: 0, first: BTreeSet::new() }
    }

    /// Counts the binding `name` of `namespace`, where the grant allows it what it asks.
    fn count(&mut self, namespace: &str, name: &str, authority: &Authority) {
        if !self.terms.cover(authority.from(namespace, None)) {
            return;
        }
        self.bindings += 1;
        self.first.insert(format!("{namespace}/{name}"));
        if self.first.len() > NAMED {
            self.first.pop_last();
        }
    }

    fn status(self) -> IdTokenGrantStatus {
        IdTokenGrantStatus {
            observed_generation: self.grant.metadata.generation,
            bindings: Some(self.bindings),
            used_by: self.first.into_iter().collect(),
        }
    }
}

/// So many bindings are named.
const NAMED: usize = 20;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::grant::authorise;

    fn binding(namespace: &str, name: &str, spec: &Value) -> IdTokenBinding {
        serde_json::from_value(json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec,
        }))
        .unwrap()
    }

    fn calling(audience: &str) -> Value {
        json!({"audience": audience, "source": {"impersonation": {"serviceAccount": "caller@p.iam.gserviceaccount.com"}}})
    }

    fn grant(spec: &Value) -> IdTokenGrant {
        serde_json::from_value(json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "g", "generation": 3}, "spec": spec,
        }))
        .unwrap()
    }

    /// Where no namespace has labels.
    fn of_grant(bindings: &[IdTokenBinding], grant: &IdTokenGrant) -> IdTokenGrantStatus {
        usage([grant], bindings, |_| None).remove(0)
    }

    #[test]
    fn those_are_named_that_the_grant_allows_in_order() {
        let leaving = {
            let mut leaving = binding("shop", "leaving", &calling("https://orders.a.run.app"));
            leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                "2026-01-01T00:00:00Z".parse().unwrap(),
            ));
            leaving
        };
        let suspended = json!({"audience": "https://orders.a.run.app", "suspend": true,
            "source": {"impersonation": {"serviceAccount": "caller@p.iam.gserviceaccount.com"}}});
        let key = json!({"audience": "https://orders.a.run.app", "source": {"serviceAccountKey": {"secretRef": {"name": "a", "key": "b"}}}});
        let bindings = [
            binding("shop", "z", &calling("https://orders.a.run.app")),
            binding("shop", "a", &calling("https://carts.a.run.app")),
            binding("bank", "a", &suspended),
            binding("shop", "elsewhere", &calling("https://evil.example.com")),
            binding("other", "a", &calling("https://orders.a.run.app")),
            binding("shop", "broken", &json!({"audience": "", "source": {"metadataServer": {}}})),
            binding("shop", "own", &key),
            leaving,
        ];
        let spec = json!({"namespaces": {"names": ["shop", "bank"]}, "identities": ["caller@p.iam.gserviceaccount.com"], "audiences": ["https://*.a.run.app"]});
        assert_eq!(
            of_grant(&bindings, &grant(&spec)),
            IdTokenGrantStatus {
                observed_generation: Some(3),
                bindings: Some(3),
                used_by: vec!["bank/a".into(), "shop/a".into(), "shop/z".into()],
            }
        );
        let nobody =
            json!({"namespaces": {"names": ["nobody"]}, "identities": ["operator"], "audiences": ["x"]});
        assert_eq!(
            of_grant(&bindings, &grant(&nobody)),
            IdTokenGrantStatus { observed_generation: Some(3), bindings: Some(0), used_by: vec![] }
        );
    }

    #[test]
    fn a_selector_counts_the_namespaces_that_carry_its_labels() {
        let bindings = [
            binding("shop", "a", &calling("https://orders.a.run.app")),
            binding("bank", "a", &calling("https://orders.a.run.app")),
        ];
        let (orders, none) = (BTreeMap::from([("team".to_owned(), "orders".to_owned())]), BTreeMap::new());
        let spec = json!({"namespaces": {"selector": {"matchLabels": {"team": "orders"}}}, "identities": ["caller@p.iam.gserviceaccount.com"], "audiences": ["https://*.a.run.app"]});
        let statuses =
            usage([&grant(&spec)], &bindings, |name| Some(if name == "shop" { &orders } else { &none }));
        assert_eq!((statuses[0].bindings, &statuses[0].used_by), (Some(1), &vec!["shop/a".to_owned()]));
    }

    #[test]
    fn each_grant_is_told_of_its_own_users_who_are_named_in_the_order_of_their_texts() {
        let bindings = [
            // In the order of an index: `shop-eu/a` is the lesser text, since `-` comes before `/`.
            binding("shop", "a", &calling("https://orders.a.run.app")),
            binding("shop", "b", &calling("https://carts.a.run.app")),
            binding("shop-eu", "a", &calling("https://orders.a.run.app")),
        ];
        let spec = |namespaces: &[&str], audience: &str| json!({"namespaces": {"names": namespaces}, "identities": ["caller@p.iam.gserviceaccount.com"], "audiences": [audience]});
        let grants = [
            spec(&["nobody"], "https://*.a.run.app"),
            spec(&["shop"], "https://*.a.run.app"),
            spec(&["shop-eu", "shop"], "https://orders.a.run.app"),
        ];
        let statuses = usage(&grants.map(|spec| grant(&spec)), &bindings, |_| None);
        let used: Vec<_> =
            statuses.into_iter().map(|status| (status.bindings, status.used_by.join(" "))).collect();
        let expected = [(0, ""), (2, "shop/a shop/b"), (2, "shop-eu/a shop/a")];
        assert_eq!(used, expected.map(|(bindings, used_by)| (Some(bindings), used_by.to_owned())));
    }

    #[test]
    fn twenty_of_many_are_named_and_all_are_counted_as_they_are_authorised() {
        let bindings: Vec<_> = (0..500)
            .map(|i| {
                binding(
                    &format!("ns-{:02}", i % 50),
                    &format!("b-{i:03}"),
                    &calling(&format!("https://s{}.a.run.app", i % 7)),
                )
            })
            .collect();
        for audience in [
            "https://*.a.run.app",
            "https://s3.a.run.app",
            "https://s3.a.run.app/*",
            "https://*.run.app",
            "*",
        ] {
            let spec = json!({"namespaces": {"all": true}, "identities": ["*@p.iam.gserviceaccount.com"], "audiences": [audience]});
            let grant = grant(&spec);
            let allowed = bindings
                .iter()
                .filter(|b| {
                    let authority = Authority::of(&validate(b).unwrap());
                    authorise([&grant], b.metadata.namespace.as_deref().unwrap(), None, authority.as_ref())
                        .is_ok()
                })
                .count();
            let status = of_grant(&bindings, &grant);
            assert_eq!(status.bindings, Some(i64::try_from(allowed).unwrap()), "{audience}");
            assert_eq!(status.used_by.len(), allowed.min(20), "{audience}");
            assert!(status.used_by.is_sorted(), "{audience}");
        }
        let everything = json!({"namespaces": {"all": true}, "identities": ["*"], "audiences": ["*"]});
        let status = of_grant(&bindings, &grant(&everything));
        assert_eq!(status.bindings, Some(500));
        assert_eq!(status.used_by[..3], ["ns-00/b-000", "ns-00/b-050", "ns-00/b-100"]);
    }
}
