//! Metadata without what nobody looks at.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// The metadata of a `K`: its data is not even asked for. What stands in them of `managedFields`, which is most of it, is skipped while it
/// is read; and so is what kubectl has noted of the whole object, the data of a Secret included.
#[derive(Clone, Debug)]
pub struct Light<K> {
    /// Without what nobody looks at.
    pub metadata: ObjectMeta,
    kind: PhantomData<fn() -> K>,
}

impl<'de, K> Deserialize<'de> for Light<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(default)]
            metadata: LookedAt,
        }
        let Object { metadata } = Object::deserialize(deserializer)?;
        Ok(Self { metadata: metadata.into(), kind: PhantomData })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LookedAt {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
    deletion_timestamp: Option<Timestamp>,
}

/// Takes away what nobody looks at, where it has been read all the same.
pub fn lighten(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

impl From<LookedAt> for ObjectMeta {
    fn from(seen: LookedAt) -> Self {
        let mut metadata = Self {
            name: seen.name,
            namespace: seen.namespace,
            uid: seen.uid,
            resource_version: seen.resource_version,
            labels: seen.labels,
            annotations: seen.annotations,
            owner_references: seen.owner_references,
            finalizers: seen.finalizers,
            deletion_timestamp: seen.deletion_timestamp.map(Time),
            ..Self::default()
        };
        lighten(&mut metadata);
        metadata
    }
}

impl<K: Resource> Resource for Light<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        true
    }

    fn kind(kind: &K::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &K::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &K::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &K::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Holds whole objects, and so the data of Secrets that were applied by kubectl.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_looked_at_stays_and_no_data_does() {
        let secret = json!({
            "metadata": {
                "name": "token", "namespace": "shop", "uid": "1", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"k\":\"c2VjcmV0\"}}", "c": "d"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "2", "controller": true}],
                "finalizers": ["example.com/backup"], "deletionTimestamp": "2026-11-22T13:00:00Z",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:data": {}}}], "creationTimestamp": null,
            },
            "data": {"k": "c2VjcmV0"},
        });
        let light: Light<Secret> = serde_json::from_value(secret).unwrap();
        assert_eq!(
            serde_json::to_value(&light.metadata).unwrap(),
            json!({
                "name": "token", "namespace": "shop", "uid": "1", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"c": "d"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "2", "controller": true}],
                "finalizers": ["example.com/backup"], "deletionTimestamp": "2026-11-22T13:00:00Z",
            })
        );
        assert!(!format!("{light:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn only_metadata_is_asked_for() {
        assert!(Light::<Secret>::metadata_api());
        assert_eq!(Light::<Secret>::url_path(&(), Some("shop")), "/api/v1/namespaces/shop/secrets");
    }
}
