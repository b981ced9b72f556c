//! What rests, as small as it may be kept: as JSON, compressed. At any time nearly all bindings and their Secrets rest, and they are
//! much alike: taken apart, as strings, maps and lists, ten thousand of both take some 60 MB, as JSON 26, and so 9.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::{Serialize, de::DeserializeOwned};

use crate::cache::{Parts, index::Index, light::Light};

/// An object, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Packed(Arc<[u8]>);

impl Packed {
    pub(super) fn of(value: &impl Serialize) -> Self {
        // Strings, numbers, and lists and maps of them: that can't fail; and where it did, it would not be found in the cache.
        let json = serde_json::to_vec(value).unwrap_or_default();
        Self(compress_prepend_size_with_dict(&json, ALIKE).into())
    }

    pub(super) fn unpack<T: DeserializeOwned>(&self) -> Option<T> {
        let json = decompress_size_prepended_with_dict(&self.0, ALIKE).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

/// The metadata of the Secrets of our type, in each namespace that is served.
pub(super) struct Secrets(Parts<Index<Packed>>);

impl Secrets {
    /// Those that watches tell of.
    pub(super) fn of(parts: Parts<Index<Packed>>) -> Self {
        Self(parts)
    }

    /// What to keep of one.
    pub(super) fn pack(secret: &Light<Secret>) -> Packed {
        Packed::of(&secret.metadata)
    }

    /// The metadata of the Secret `name` of `namespace`, if it was seen.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<ObjectMeta> {
        self.0.of(namespace)?.get(namespace, name, Packed::clone)?.unpack()
    }
}

/// A binding, and the metadata of its Secret: what others have in common with them takes next to nothing.
const ALIKE: &[u8] = include_bytes!("packed/alike.json");

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::IdTokenBinding;

    /// Packs and unpacks; says how many times smaller than its JSON it was.
    fn ratio<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> usize {
        let packed = Packed::of(value);
        assert_eq!(packed.unpack::<T>().as_ref(), Some(value));
        serde_json::to_vec(value).unwrap().len() / packed.0.len()
    }

    fn binding(spec: &Value) -> IdTokenBinding {
        let condition = |type_: &str, status: &str, message: &str| {
            json!({
                "type": type_, "status": status, "reason": "TokenFresh", "message": message, "observedGeneration": 3,
                "lastTransitionTime": "2027-05-12T03:14:15Z",
            })
        };
        let binding = json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
            "metadata": {
                "name": "pay", "namespace": "checkout", "uid": "5b0ad3c1-77a5-4a51-b1d4-53f9d3a2a8e4", "resourceVersion": "48151623",
                "generation": 3, "creationTimestamp": "2027-05-12T03:14:10Z", "labels": {"team": "checkout"},
            },
            "spec": spec,
            "status": {
                "observedGeneration": 3, "source": "impersonation", "secretName": "pay-id-token", "secretResourceVersion": "48151630",
                "conditions": [
                    condition("Ready", "True", "Secret pay-id-token holds a verified token"), condition("Degraded", "False", ""),
                    condition("Stalled", "False", ""),
                ],
                "identity": "caller@checkout.iam.gserviceaccount.com", "issuer": "https://accounts.google.com",
                "issueTime": "2027-05-12T04:14:15Z", "expirationTime": "2027-05-12T05:14:15Z", "nextRefreshTime": "2027-05-12T04:49:03Z",
            },
        });
        serde_json::from_value(binding).unwrap()
    }

    #[test]
    fn a_binding_takes_less_than_a_third_of_its_json() {
        let caller = json!({"impersonation": {"serviceAccount": "caller@checkout.iam.gserviceaccount.com"}});
        assert!(
            ratio(&binding(&json!({"audience": "https://payments-x7.a.run.app", "source": caller}))) >= 3
        );
        let key = json!({"serviceAccountKey": {"secretRef": {"name": "sa", "key": "key.json"}}});
        assert!(ratio(&binding(&json!({"audience": "\"\u{e9}\u{1F600}", "source": key}))) >= 2);
    }

    #[test]
    fn the_metadata_of_a_secret_takes_less_than_half_of_its_json() {
        let metadata = json!({
            "name": "pay-id-token", "namespace": "checkout", "uid": "0f8a2c9e-5d0b-4f5c-9f0e-5a4f1f2d3c4b", "resourceVersion": "48151630",
            "labels": {"app.kubernetes.io/managed-by": "idtoken-operator", "velero.io/exclude-from-backup": "true"},
            "annotations": {
                "idtoken.dev/expiration-time": "2027-05-12T05:14:15Z", "idtoken.dev/from-binding": r#"{"annotations":[],"labels":[]}"#,
                "idtoken.dev/identity": "caller@checkout.iam.gserviceaccount.com", "idtoken.dev/issue-time": "2027-05-12T04:14:15Z",
                "idtoken.dev/issuer": "https://accounts.google.com", "idtoken.dev/signature-checked": "true",
                "idtoken.dev/spec-hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "idtoken.dev/token-sha256": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
                "reloader.stakater.com/ignore": "true",
            },
            "ownerReferences": [{
                "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "name": "pay", "controller": true,
                "uid": "5b0ad3c1-77a5-4a51-b1d4-53f9d3a2a8e4",
            }],
        });
        let secret: Light<Secret> = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        assert!(ratio(&secret.metadata) >= 2);
    }

    #[test]
    fn what_is_unlike_all_others_is_the_same_when_it_is_unpacked() {
        let long: String = (0..100_000)
            .map(|i: u32| char::from(b'a' + u8::try_from(i.wrapping_mul(i) / 7 % 26).unwrap()))
            .collect();
        let metadata = json!({
            "name": "token", "finalizers": ["example.com/backup"], "deletionTimestamp": "2026-11-22T13:00:00Z",
            "annotations": {"c": "\"d", "long": long}, "labels": {},
        });
        let secret: Light<Secret> = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        assert_eq!(Secrets::pack(&secret).unpack(), Some(secret.metadata));
        assert_eq!(Packed::of(&()).unpack(), Some(()));
    }
}
