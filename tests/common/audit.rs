//! The audit log of the API server: who asked for what, and what it was answered.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::cluster::ClusterOptions;

use super::OPERATOR_NAMESPACE;

/// What the operator's accounts have asked for, and which pods anybody has created.
pub struct Audit {
    directory: TempDir,
}

impl Audit {
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        // Of TokenRequests also what was asked for, never the answer.
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
                {"level": "Request", "resources": [{"group": "", "resources": ["serviceaccounts/token"]}]},
                {"level": "Metadata", "userGroups": [format!("system:serviceaccounts:{OPERATOR_NAMESPACE}")]},
                {"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["pods"]}]},
                {"level": "None"},
            ],
        });
        fs::write(directory.path().join("policy.json"), policy.to_string()).unwrap();
        Self { directory }
    }

    /// For an API server that writes this log.
    pub fn options(&self) -> ClusterOptions {
        let policy = self.directory.path().join("policy.json");
        let api_server_args = vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", self.log().display()),
        ];
        ClusterOptions { api_server_args, ..ClusterOptions::default() }
    }

    /// How much has been written.
    pub fn position(&self) -> usize {
        fs::read(self.log()).unwrap_or_default().len()
    }

    /// What an account of the operator's namespace has asked for since `position`.
    pub fn by(&self, account: &str, position: usize) -> Vec<Value> {
        let user = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{account}");
        self.events(position).into_iter().filter(|event| event["user"]["username"] == user).collect()
    }

    /// What has been changed with a credential (`JTI=` and the id of its token), in the order of its end.
    pub fn done_with(&self, credential: &str) -> Vec<Value> {
        let changes = ["create", "update", "patch", "delete"];
        let is_change = |event: &Value| {
            event["user"]["extra"]["authentication.kubernetes.io/credential-id"][0] == credential
                && changes.contains(&event["verb"].as_str().unwrap())
                && event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300)
        };
        self.events(0).into_iter().filter(is_change).collect()
    }

    /// The creation of a pod, but as no dry run.
    pub fn created(&self, pod: &str) -> Option<Value> {
        let is_dry = |event: &Value| event["requestURI"].as_str().unwrap().contains("dryRun");
        self.events(0).into_iter().find(|event| event["objectRef"]["name"] == pod && !is_dry(event))
    }

    fn events(&self, position: usize) -> Vec<Value> {
        let log = fs::read(self.log()).unwrap_or_default();
        // The last line may be half written.
        let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = log[position.min(whole)..whole].split(|byte| *byte == b'\n').filter(|l| !l.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// What of it RBAC has refused: `verb resource.group/subresource`.
    pub fn refused(&self, account: &str, position: usize) -> BTreeSet<String> {
        let decision = |event: &Value| event["annotations"]["authorization.k8s.io/decision"] == "forbid";
        self.by(account, position).iter().filter(|event| decision(event)).map(call).collect()
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }
}

/// `verb resource`, with `.group` and `/subresource` where there are any.
fn call(event: &Value) -> String {
    let of = |field: &str, before: &str| match event["objectRef"][field].as_str() {
        Some(text) if !text.is_empty() => format!("{before}{text}"),
        _ => String::new(),
    };
    let (resource, group, sub) = (of("resource", ""), of("apiGroup", "."), of("subresource", "/"));
    format!("{} {resource}{group}{sub}", event["verb"].as_str().unwrap())
}
