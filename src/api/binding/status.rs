//! What the controller reports.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the controller reports about a binding. It never holds a token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdTokenBindingStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions by type: Ready, Degraded, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    /// Which source is set, such as `impersonation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Name of the Secret that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// `metadata.resourceVersion` of the Secret as the operator last wrote or checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_resource_version: Option<String>,
    /// E-mail address that the token was issued for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `iss` of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `iat` of the token, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_time: Option<Timestamp>,
    /// `exp` of the token, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Timestamp>,
    /// When the operator next asks for a token, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refresh_time: Option<Timestamp>,
    /// A hash of the credential, spec and request that Google refused for good: this very try is not made again, not even by
    /// another replica or after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_attempt: Option<String>,
    /// Since when no IdTokenGrant allows what stands in the Secret, UTC. When it has lasted for the operator's grace, the Secret is
    /// removed; when a grant allows it again, this goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_granted_since: Option<Timestamp>,
}
