//! The check of an installation: what is sent as a dry run, and whether the answer is as it should be.

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

/// A binding that keeps every rule of its CRD.
#[must_use]
pub fn binding() -> Value {
    json!({
        "apiVersion": "idtoken.dev/v1alpha1",
        "kind": "IdTokenBinding",
        "metadata": {"generateName": PREFIX},
        "spec": {"audience": "https://example.com", "source": {"metadataServer": {}}},
    })
}

/// A pod that asks for a token, keeps the Pod Security Standard `restricted` and asks for few resources, within any sensible quota.
#[must_use]
pub fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": PREFIX, "annotations": {"idtoken.dev/inject": "check"}},
        "spec": {
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": CONTAINER,
                "image": "example.com/check",
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi"},
                    "limits": {"cpu": "10m", "memory": "16Mi"},
                },
            }],
        },
    })
}

/// Whether [`pod`] came back with its volume, mount and variables; else what is missing, and why that may be.
pub fn judge(answer: &Pod, namespace: &str) -> Result<(), String> {
    let spec = answer.spec.as_ref();
    let volume = spec.into_iter().flat_map(|s| s.volumes.iter().flatten()).find(|v| v.name == VOLUME);
    let container = spec.into_iter().flat_map(|s| &s.containers).find(|c| c.name == CONTAINER);
    let missing: Vec<_> = [
        (volume.is_some_and(|v| v.projected.is_some()), "the volume idtoken"),
        (container.is_some_and(has_mount), "its mount at /var/run/secrets/idtoken.dev"),
        (container.is_some_and(|c| has_variable(c, "IDTOKEN_DIR")), "the variable IDTOKEN_DIR"),
        (container.is_some_and(|c| has_variable(c, "IDTOKEN_FILE")), "the variable IDTOKEN_FILE"),
    ]
    .into_iter()
    .filter_map(|(there, what)| (!there).then_some(what))
    .collect();
    match missing.len() {
        0 => Ok(()),
        4 => Err(format!(
            "an annotated pod came back as it was sent: the webhook was not asked for namespace {namespace}, or did not answer \
             under failurePolicy Ignore. Is the MutatingWebhookConfiguration (with injection.mode=policy: the MutatingAdmissionPolicy) installed, and is {namespace} \
             among the namespaces that it excludes (the operator's own, kube-system and the like, the chart's webhook.excludeNamespaces)?"
        )),
        _ => Err(format!(
            "an annotated pod came back without {}: another admission webhook or policy has changed what ours did",
            missing.join(", ")
        )),
    }
}

/// What a refusal of [`binding`] means: the API server's code and words.
#[must_use]
pub fn explain_binding(code: u16, message: &str) -> String {
    match code {
        404 => format!("the API server does not know IdTokenBindings: are the CRDs installed? ({message})"),
        403 => {
            format!("not allowed: {message}; the check needs the right to create idtokenbindings.idtoken.dev")
        }
        _ => format!("an IdTokenBinding is refused: {message}"),
    }
}

/// What a refusal of [`pod`] means: the API server's code and words.
#[must_use]
pub fn explain_pod(code: u16, message: &str) -> String {
    if message.contains("failed calling webhook") {
        return format!(
            "the API server can't reach a webhook: {message}. If it is ours: are its pods ready, does its Service have endpoints, and \
             does no firewall or NetworkPolicy keep the API server from port 10250?"
        );
    }
    match code {
        403 if message.contains("cannot create resource") => {
            format!("not allowed: {message}; the check needs the right to create pods")
        }
        _ => format!("an annotated pod is refused: {message}"),
    }
}

fn has_mount(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| {
        mount.name == VOLUME
            && mount.mount_path == "/var/run/secrets/idtoken.dev"
            && mount.read_only == Some(true)
    })
}

fn has_variable(container: &Container, name: &str) -> bool {
    container.env.iter().flatten().any(|variable| variable.name == name)
}

const PREFIX: &str = "idtoken-check-";
const CONTAINER: &str = "check";
const VOLUME: &str = "idtoken";

#[cfg(test)]
mod tests {
    use super::*;

    /// The pod as the webhook returns it, without what `cut` names.
    fn answer(cut: &[&str]) -> Pod {
        let mut pod = pod();
        let container = &mut pod["spec"]["containers"][0];
        if !cut.contains(&"mount") {
            let mount =
                json!({"name": "idtoken", "mountPath": "/var/run/secrets/idtoken.dev", "readOnly": true});
            container["volumeMounts"] = json!([mount]);
        }
        if !cut.contains(&"env") {
            container["env"] = json!([
                {"name": "IDTOKEN_DIR", "value": "/var/run/secrets/idtoken.dev"},
                {"name": "IDTOKEN_FILE", "value": "/var/run/secrets/idtoken.dev/check/token"},
            ]);
        }
        if !cut.contains(&"volume") {
            pod["spec"]["volumes"] = json!([{"name": "idtoken", "projected": {"sources": []}}]);
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn whole_answer_passes() {
        assert_eq!(judge(&answer(&[]), "shop"), Ok(()));
    }

    #[test]
    fn untouched_pod_means_that_the_webhook_was_not_asked() {
        let why = judge(&answer(&["volume", "mount", "env"]), "shop").unwrap_err();
        assert!(why.contains("the webhook was not asked for namespace shop"), "{why}");
    }

    #[test]
    fn half_an_injection_names_what_is_missing() {
        for (cut, missing) in [
            ("volume", "without the volume idtoken:"),
            ("mount", "without its mount at /var/run/secrets/idtoken.dev:"),
            ("env", "without the variable IDTOKEN_DIR, the variable IDTOKEN_FILE:"),
        ] {
            let why = judge(&answer(&[cut]), "shop").unwrap_err();
            assert!(why.contains(missing), "{cut}: {why}");
        }
    }

    #[test]
    fn refusals_say_what_to_look_at() {
        let down = "failed calling webhook \"pods.idtoken.dev\": connection refused";
        assert!(explain_pod(500, down).contains("are its pods ready"));
        let rbac = "pods is forbidden: User \"x\" cannot create resource \"pods\"";
        assert!(explain_pod(403, rbac).ends_with("needs the right to create pods"));
        assert_eq!(
            explain_pod(403, "violates PodSecurity"),
            "an annotated pod is refused: violates PodSecurity"
        );
        assert!(explain_binding(404, "the server could not find it").contains("are the CRDs installed?"));
    }
}
