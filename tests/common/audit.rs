//! The audit log of the API server: who asked for what, and what it was answered.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::cluster::ClusterOptions;

use super::OPERATOR_NAMESPACE;

/// What the operator's accounts have asked for.
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
        let log = fs::read(self.log()).unwrap_or_default();
        // The last line may be half written.
        let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = log[position.min(whole)..whole].split(|byte| *byte == b'\n').filter(|l| !l.is_empty());
        let events = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        events.filter(|event| event["user"]["username"] == user).collect()
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
