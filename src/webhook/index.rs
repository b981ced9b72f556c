//! The bindings that there are, reduced to what a review needs: what a watch brings of each is parsed no further than that, so
//! that a cache of ten thousand takes a few megabytes.
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt as _};
use serde::{Deserialize, Deserializer};

use crate::{
    api::{IdTokenBinding, binding::SecretTarget},
    cache::index,
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
    pub fn facts(&self) -> BindingFacts {
        let target = &self.spec.secret;
        BindingFacts {
            secret_name: target.name_for(self.metadata.name.as_deref().unwrap_or_default()),
            key: target.key.clone(),
            authorization_key: Some(target.authorization_key.clone()).filter(|key| !key.is_empty()),
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

/// The bindings of which a watch has told.
pub type Index = index::Index<Kept>;

/// How a binding differs from what one of its name is assumed to be, which most of them do not.
#[derive(Clone, Debug)]
pub struct Kept {
    secret_name: Option<Box<str>>,
    key: Option<Box<str>>,
    authorization_key: Option<Box<str>>,
    expiration_time: Option<Timestamp>,
}

impl Kept {
    /// What is kept of a binding.
    #[must_use]
    pub fn of(binding: &Seen) -> Self {
        let (assumed, facts) = (BindingFacts::assumed(&binding.name_any()), binding.facts());
        let unlike = |text: String, assumed: &str| (text != assumed).then(|| text.into_boxed_str());
        Self {
            secret_name: unlike(facts.secret_name, &assumed.secret_name),
            key: unlike(facts.key, &assumed.key),
            authorization_key: facts.authorization_key.map(String::into_boxed_str),
            expiration_time: facts.expiration_time,
        }
    }

    /// What a review needs of the binding, which has that `name`.
    #[must_use]
    pub fn facts(&self, name: &str) -> BindingFacts {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        let kept = |binding: &Seen| Kept::of(binding).facts(&binding.name_any());
        assert_eq!(
            kept(&serde_json::from_value(own).unwrap()),
            BindingFacts {
                secret_name: "token".into(),
                key: "jwt".into(),
                authorization_key: Some("header".into()),
                expiration_time: Some("2026-11-22T13:00:00Z".parse().unwrap()),
            }
        );
        let usual = json!({"metadata": {"name": "stock"}, "spec": {"secret": {"key": "id_token"}}});
        assert_eq!(kept(&serde_json::from_value(usual).unwrap()), BindingFacts::assumed("stock"));
    }
}
