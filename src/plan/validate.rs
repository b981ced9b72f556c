//! Binding → [`Wanted`]: parsed once, so that nothing after it needs to check a spec again.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Problem,
    secret::sha256_hex,
    source::{self, Audience, Source, invalid},
};
use crate::api::{IdTokenBinding, binding};

/// What a valid binding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The `aud` of the token.
    pub audience: Audience,
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub secret: SecretSpec,
    /// Part of the lifetime after which it is replaced, percent.
    pub refresh_percent: u8,
    /// Whether the binding rests.
    pub suspend: bool,
    /// The forced refresh that the user asked for, as written.
    pub refresh_requested: Option<String>,
    /// Lower-case hex SHA-256 over what decides which token and which keys belong in the Secret.
    pub spec_hash: String,
}

/// The Secret that a binding asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretSpec {
    /// Its name.
    pub name: String,
    /// Key of the raw token.
    pub key: String,
    /// Key of `Bearer <token>`.
    pub authorization_key: Option<String>,
    /// Labels from the binding.
    pub labels: BTreeMap<String, String>,
    /// Annotations from the binding.
    pub annotations: BTreeMap<String, String>,
}

/// Parses the spec of `binding`. The CRD's rules refuse most bad specs; what an older CRD let pass ends here.
pub fn validate(binding: &IdTokenBinding) -> Result<Wanted, Problem> {
    let spec = &binding.spec;
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    let audience =
        Audience::parse(&spec.audience).map_err(|why| invalid("spec.audience", &spec.audience, why))?;
    let source = source::parse(&spec.source)?;
    if spec.audience.contains('*') && !matches!(source, Source::SignedJwt { .. }) {
        let mend = "write it exactly: only IAP, with signedJwt, knows an audience with '*'";
        return Err(invalid("spec.audience", &spec.audience, mend));
    }
    let secret = secret(name, &spec.secret)?;
    let percent = spec.refresh.at_lifetime_percent;
    let refresh_percent = u8::try_from(percent)
        .ok()
        .filter(|p| (20..=90).contains(p))
        .ok_or_else(|| invalid("spec.refresh.atLifetimePercent", &percent.to_string(), "choose 20 to 90"))?;
    let spec_hash = spec_hash(&audience, &source, &secret);
    let refresh_requested = binding
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(crate::api::annotations::REFRESH_REQUESTED_AT))
        .cloned();
    Ok(Wanted {
        audience,
        source,
        secret,
        refresh_percent,
        suspend: spec.suspend,
        refresh_requested,
        spec_hash,
    })
}

fn secret(binding: &str, target: &binding::SecretTarget) -> Result<SecretSpec, Problem> {
    let key_mend = "use letters, digits, '-', '_' and '.', not starting with '..'";
    if !is_secret_key(&target.key) {
        return Err(invalid("spec.secret.key", &target.key, key_mend));
    }
    let authorization_key = Some(&target.authorization_key).filter(|k| !k.is_empty()).cloned();
    if let Some(key) = &authorization_key {
        if !is_secret_key(key) {
            return Err(invalid("spec.secret.authorizationKey", key, key_mend));
        }
        if *key == target.key {
            return Err(invalid(
                "spec.secret.authorizationKey",
                key,
                "choose another key than spec.secret.key",
            ));
        }
    }
    for (field, map) in
        [("spec.secret.labels", &target.labels), ("spec.secret.annotations", &target.annotations)]
    {
        if let Some(key) = map.keys().find(|k| is_reserved(k)) {
            return Err(invalid(field, key, "remove it: the prefix is reserved"));
        }
    }
    Ok(SecretSpec {
        name: target.name_for(binding),
        key: target.key.clone(),
        authorization_key,
        labels: target.labels.clone(),
        annotations: target.annotations.clone(),
    })
}

fn is_secret_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..")
}

fn is_reserved(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let below =
        |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|p| p.ends_with('.'));
    prefix == "idtoken.dev" || prefix == "argocd.argoproj.io" || below("kubernetes.io") || below("fluxcd.io")
}

fn spec_hash(audience: &Audience, source: &Source, secret: &SecretSpec) -> String {
    let keys = [Some(&secret.key), secret.authorization_key.as_ref()];
    let text = serde_json::json!({"v": 1, "audience": audience, "source": source, "keys": keys}).to_string();
    sha256_hex(text.as_bytes())
}

#[cfg(test)]
mod tests;
