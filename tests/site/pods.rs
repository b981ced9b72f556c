//! Pods that pass Pod Security `restricted`, and what becomes of them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use xtask::process::wait_for;

use super::{SHELL, SOON, Site};

/// A user that is not root and not the operator's.
pub const USER: i64 = 10_001;

/// A pod template: `script` in a shell, as a user that is not root.
pub fn template(annotations: &Value, script: &str) -> Value {
    json!({
        "metadata": {"annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container("main", SHELL, &["sh", "-c", script])],
        },
    })
}

pub fn container(name: &str, image: &str, command: &[&str]) -> Value {
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

/// A pod of that template.
pub fn pod(namespace: &str, name: &str, template: &Value) -> Value {
    let mut metadata = template["metadata"].clone();
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(namespace);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// The annotation that asks for a binding.
pub fn inject(bindings: &str) -> Value {
    json!({"idtoken.dev/inject": bindings})
}

impl Site {
    /// Waits until the first pod with that label says what is asked for in the log of a container.
    pub async fn wait_log(
        &self,
        namespace: &str,
        selector: &str,
        container: &str,
        line: impl Fn(&str) -> bool,
    ) -> String {
        self.wait_log_within(namespace, selector, container, SOON, line).await
    }

    pub async fn wait_log_within(
        &self,
        namespace: &str,
        selector: &str,
        container: &str,
        within: Duration,
        line: impl Fn(&str) -> bool,
    ) -> String {
        let found = wait_for("a line in the log", within, || async {
            let (ok, log) =
                self.kubectl(&["-n", namespace, "logs", "-l", selector, "-c", container, "--tail=-1"]);
            ensure!(ok, "{log}");
            let line = log.lines().rev().find(|text| line(text)).map(str::to_owned);
            line.with_context(|| format!("the log is: {log}"))
        });
        match found.await {
            Ok(line) => line,
            Err(error) => panic!(
                "{error:#}\n{}\n{}",
                self.kubectl(&["-n", namespace, "describe", "pods"]).1,
                self.release_logs()
            ),
        }
    }

    /// Waits until a pod satisfies `check`.
    pub async fn wait_pod(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
        within: Duration,
        check: impl Fn(&Pod) -> bool,
    ) -> Pod {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let found = wait_for(what, within, || async {
            let pod = api.get(name).await?;
            ensure!(check(&pod), "its status is {}", serde_json::to_string(&pod.status)?);
            Ok(pod)
        });
        match found.await {
            Ok(pod) => pod,
            Err(error) => {
                panic!("{error:#}\n{}", self.kubectl(&["-n", namespace, "describe", "pod", name]).1)
            }
        }
    }
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// How often the containers of a pod were started again.
pub fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    status.into_iter().flatten().map(|container| container.restart_count).sum()
}
