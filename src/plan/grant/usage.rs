//! Who uses a grant: what its status says.

use std::collections::{BTreeMap, HashMap};

use super::{Authority, Terms, selects};
use crate::{
    api::{IdTokenBinding, IdTokenGrant, IdTokenGrantStatus},
    plan::validate::validate,
};

/// What bindings ask of grants.
#[derive(Debug, Default)]
pub struct Claims(Vec<Claim>);

#[derive(Debug)]
struct Claim {
    /// `namespace/name`.
    binding: String,
    namespace: String,
    authority: Authority,
}

impl Claims {
    /// Of those of `bindings` that use the operator's identity, are valid, and are not on their way out.
    pub fn of<'b>(bindings: impl IntoIterator<Item = &'b IdTokenBinding>) -> Self {
        let claim = |binding: &IdTokenBinding| {
            let meta = &binding.metadata;
            let (namespace, name) = (meta.namespace.clone()?, meta.name.as_deref()?);
            let wanted = validate(binding).ok().filter(|_| meta.deletion_timestamp.is_none())?;
            let authority = Authority::of(&wanted)?;
            Some(Claim { binding: format!("{namespace}/{name}"), namespace, authority })
        };
        let mut claims: Vec<_> = bindings.into_iter().filter_map(claim).collect();
        claims.sort_unstable_by(|a, b| a.binding.cmp(&b.binding));
        Self(claims)
    }

    /// The status of `grant`. Its patterns are parsed once, and each namespace, whose labels `labels` knows, is selected once.
    pub fn of_grant<'l>(
        &self,
        grant: &IdTokenGrant,
        labels: impl Fn(&str) -> Option<&'l BTreeMap<String, String>>,
    ) -> IdTokenGrantStatus {
        let spec = &grant.spec;
        let terms = Terms::of(spec);
        let mut selected: HashMap<&str, bool> = HashMap::new();
        let (mut bindings, mut used_by) = (0, Vec::new());
        for claim in &self.0 {
            let namespace = claim.namespace.as_str();
            let select = || selects(&spec.namespaces, namespace, labels(namespace));
            let is_allowed = *selected.entry(namespace).or_insert_with(select)
                && terms.cover(claim.authority.from(namespace, None));
            if is_allowed {
                bindings += 1;
                if used_by.len() < NAMED {
                    used_by.push(claim.binding.clone());
                }
            }
        }
        IdTokenGrantStatus {
            observed_generation: grant.metadata.generation,
            bindings: Some(bindings),
            used_by,
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

    fn unlabelled(_: &str) -> Option<&'static BTreeMap<String, String>> {
        None
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
            Claims::of(&bindings).of_grant(&grant(&spec), unlabelled),
            IdTokenGrantStatus {
                observed_generation: Some(3),
                bindings: Some(3),
                used_by: vec!["bank/a".into(), "shop/a".into(), "shop/z".into()],
            }
        );
        let nobody =
            json!({"namespaces": {"names": ["nobody"]}, "identities": ["operator"], "audiences": ["x"]});
        assert_eq!(
            Claims::of(&bindings).of_grant(&grant(&nobody), unlabelled),
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
        let status = Claims::of(&bindings)
            .of_grant(&grant(&spec), |name| Some(if name == "shop" { &orders } else { &none }));
        assert_eq!((status.bindings, status.used_by), (Some(1), vec!["shop/a".to_owned()]));
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
        let claims = Claims::of(&bindings);
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
            let status = claims.of_grant(&grant, unlabelled);
            assert_eq!(status.bindings, Some(i64::try_from(allowed).unwrap()), "{audience}");
            assert_eq!(status.used_by.len(), allowed.min(20), "{audience}");
            assert!(status.used_by.is_sorted(), "{audience}");
        }
        let everything = json!({"namespaces": {"all": true}, "identities": ["*"], "audiences": ["*"]});
        let status = claims.of_grant(&grant(&everything), unlabelled);
        assert_eq!(status.bindings, Some(500));
        assert_eq!(status.used_by[..3], ["ns-00/b-000", "ns-00/b-050", "ns-00/b-100"]);
    }
}
