//! What the API server refuses beside what the schema says: names, and the rules of the CRD on the Secret that a binding asks for.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Wrong, wrong};
use crate::{
    api::IdTokenBinding,
    plan::names::{is_data_key, is_dns_label, is_dns_subdomain},
};

/// Whether the names of an object are names.
pub(super) fn named(metadata: &ObjectMeta) -> Result<(), Wrong> {
    if !is_dns_subdomain(metadata.name.as_deref().unwrap_or_default()) {
        return Err(wrong("metadata.name", SUBDOMAIN));
    }
    if metadata.namespace.as_deref().is_some_and(|namespace| !is_dns_label(namespace)) {
        return Err(wrong(
            "metadata.namespace",
            "must have lower-case letters, digits and '-' only, at most 63",
        ));
    }
    Ok(())
}

/// Whether the keys of a Secret are keys.
pub(super) fn keyed(data: &BTreeMap<String, Vec<u8>>) -> Result<(), Wrong> {
    match data.keys().find(|key| !is_data_key(key)) {
        Some(key) => Err(wrong(format!("data.{key}"), KEY)),
        None => Ok(()),
    }
}

/// The CRD's rules on `spec.secret`.
pub(super) fn secret_of(binding: &IdTokenBinding) -> Result<(), Wrong> {
    let secret = &binding.spec.secret;
    if !secret.name.is_empty() && !is_dns_subdomain(&secret.name) {
        return Err(wrong("spec.secret.name", SUBDOMAIN));
    }
    if secret.name.is_empty() && binding.metadata.name.as_ref().is_some_and(|name| name.len() > 245) {
        return Err(wrong("metadata.name", "is longer than 245 characters: set spec.secret.name"));
    }
    if !is_data_key(&secret.key) {
        return Err(wrong("spec.secret.key", KEY));
    }
    if !secret.authorization_key.is_empty() && !is_data_key(&secret.authorization_key) {
        return Err(wrong("spec.secret.authorizationKey", KEY));
    }
    if secret.authorization_key == secret.key {
        return Err(wrong("spec.secret.authorizationKey", "must differ from spec.secret.key"));
    }
    Ok(())
}

const SUBDOMAIN: &str = "must have lower-case letters, digits, '-' and '.' only, at most 253";
const KEY: &str = "must have letters, digits, '-', '_' and '.' only, and not begin with '..'";
