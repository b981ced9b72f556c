//! Waiting for the API server to say what is expected of it.

use std::fmt::{self, Debug, Display};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DynamicObject;
use kube::runtime::wait::await_condition;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// A step that did not happen.
#[derive(Debug)]
pub(super) struct Unobserved {
    expected: String,
    seen: String,
}

impl Display for Unobserved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a step was not observed\n  expected: {}\n  seen:     {}", self.expected, self.seen)
    }
}

impl std::error::Error for Unobserved {}

/// Fails unless what was expected `holds`.
pub(super) fn expect(expected: impl Display, holds: bool, seen: impl Display) -> anyhow::Result<()> {
    if holds {
        return Ok(());
    }
    Err(Unobserved { expected: expected.to_string(), seen: seen.to_string() }.into())
}

/// Watches an object until it `holds`; when it does not `within` the time, the error says what was `seen` last.
pub(super) async fn until<K>(
    api: Api<K>,
    name: &str,
    expected: &str,
    within: Duration,
    holds: impl Fn(&K) -> bool + Send,
    seen: impl Fn(&K) -> String,
) -> anyhow::Result<K>
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    let condition = |object: Option<&K>| object.is_some_and(&holds);
    match timeout(within, await_condition(api.clone(), name, condition)).await {
        Ok(Ok(Some(object))) => return Ok(object),
        Ok(Ok(None)) | Err(_) => {}
        Ok(Err(error)) => return Err(error.into()),
    }
    let last = api.get_opt(name).await?;
    let last = last.as_ref().map_or_else(|| format!("there is no {name}"), seen);
    Err(Unobserved { expected: format!("{expected} within {} s", within.as_secs()), seen: last }.into())
}

/// The condition of that type, for any object with conditions of the usual kind.
pub(super) fn condition(object: &DynamicObject, kind: &str) -> Option<Condition> {
    let conditions: Vec<Condition> =
        serde_json::from_value(object.data.pointer("/status/conditions")?.clone()).ok()?;
    conditions.into_iter().find(|condition| condition.type_ == kind)
}

/// All conditions in words.
pub(super) fn conditions(object: &DynamicObject) -> Vec<String> {
    let said: Vec<String> = ["Ready", "Degraded", "Stalled"]
        .into_iter()
        .filter_map(|kind| condition(object, kind))
        .map(|condition| {
            let said = format!("{}={} {}", condition.type_, condition.status, condition.reason);
            if condition.message.is_empty() { said } else { format!("{said}: {}", condition.message) }
        })
        .collect();
    if said.is_empty() { vec!["no conditions at all".to_owned()] } else { said }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn what_did_not_happen_is_told() {
        assert!(expect("a later exp", true, "").is_ok());
        let error = expect("a later exp", false, "the same exp").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a step was not observed\n  expected: a later exp\n  seen:     the same exp"
        );
    }

    #[test]
    fn conditions_are_found_by_type() {
        let object: DynamicObject = serde_json::from_value(json!({"metadata": {"name": "orders"}, "status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "NotGranted", "message": "no grant",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        }}))
        .unwrap();
        assert_eq!(condition(&object, "Ready").unwrap().reason, "NotGranted");
        assert!(condition(&object, "Stalled").is_none());
        assert_eq!(conditions(&object), ["Ready=False NotGranted: no grant"]);
    }
}
