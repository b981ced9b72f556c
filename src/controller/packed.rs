//! The Secrets of our type that there are: by their metadata alone, and as text, so that ten thousand take a dozen megabytes.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::cache::{Parts, index::Index, light::Light};

/// The Secrets of each namespace that is served.
pub(super) struct Secrets(Parts<Index<Packed>>);

/// The JSON of an object's metadata. Taken apart, as maps and strings, it is three times as large.
pub(super) struct Packed(Box<str>);

impl Secrets {
    /// Those that watches tell of.
    pub(super) fn of(parts: Parts<Index<Packed>>) -> Self {
        Self(parts)
    }

    /// The metadata of the Secret `name` of `namespace`, if it was seen.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<ObjectMeta> {
        self.0.of(namespace)?.get(namespace, name, Packed::unpack).flatten()
    }
}

impl Packed {
    pub(super) fn of(secret: &Light<Secret>) -> Self {
        // Strings and maps of them: that can't fail; and where it did, the Secret would be looked at live.
        Self(serde_json::to_string(&secret.metadata).unwrap_or_default().into())
    }

    fn unpack(&self) -> Option<ObjectMeta> {
        serde_json::from_str(&self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_packed_is_the_same_when_it_is_unpacked() {
        let metadata = json!({
            "name": "token", "namespace": "shop", "uid": "1", "resourceVersion": "7", "labels": {"a": "b"}, "annotations": {"c": "\"d"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "2", "controller": true}],
            "finalizers": ["example.com/backup"], "deletionTimestamp": "2026-11-22T13:00:00Z",
        });
        let secret: Light<Secret> = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        assert_eq!(Packed::of(&secret).unpack(), Some(secret.metadata));
    }
}
