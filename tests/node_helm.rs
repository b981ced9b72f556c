//! The life of a release on a real node: install, upgrade, rollback, test, uninstall, as its user goes through it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod site;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use site::{
    AUDIENCE, CALLER, NAMESPACE, RELEASE, Site, binding, chart, impersonation, on_node, path,
    pods::{inject, pod, template},
};
use tokio::sync::Mutex;

/// One after the other: there is one release.
static TURN: Mutex<()> = Mutex::const_new(());

/// Installs, and sees that the webhook answers at the very moment at which Helm says that all is there.
fn install(site: &Site, namespace: &str, more: &[&str]) {
    site.release_namespace();
    site.namespace(namespace);
    let values = site.values();
    let chart = chart();
    let fixed = ["install", RELEASE, &chart, "--values", path(&values), "--wait", "--timeout=120s"];
    site.helm_ok(&[&fixed[..], more].concat());
    assert_eq!(injects(site, namespace), Ok(()), "helm install --wait returned too early");
}

/// Whether an annotated pod is admitted and gets its volume, by a dry run.
fn injects(site: &Site, namespace: &str) -> Result<(), String> {
    let pod = pod(namespace, "probe", &template(&inject("orders"), "true"));
    let (ok, said) =
        site.kubectl_with(&["create", "--dry-run=server", "-o", "json", "-f", "-"], &pod.to_string());
    if ok && said.contains(r#""name": "idtoken""#) { Ok(()) } else { Err(said) }
}

async fn ca_bundle(site: &Site) -> Vec<u8> {
    let api = Api::<MutatingWebhookConfiguration>::all(site.client.clone());
    let configuration = api.get("idtoken-operator").await.unwrap();
    configuration.webhooks.unwrap()[0].client_config.ca_bundle.clone().unwrap().0
}

#[test]
#[ignore = "tier node: needs a real node"]
fn wait_returns_when_the_webhook_answers() {
    on_node(async |site: Arc<Site>| {
        let _turn = TURN.lock().await;
        site.uninstall().await;
        install(&site, "admitted", &[]);
        site.uninstall().await;
        let without = injects(&site, "admitted");
        assert!(
            without.is_err(),
            "without the release nothing is injected, so the above has shown something"
        );
    });
}

#[test]
#[ignore = "tier node: needs a real node"]
fn upgrades_and_rollbacks_conflict_with_nobody() {
    on_node(async |site: Arc<Site>| {
        let _turn = TURN.lock().await;
        site.uninstall().await;
        install(&site, "upgrades", &[]);
        site.grant("upgrades");
        site.bound("upgrades", "orders", &impersonation(AUDIENCE)).await;
        let token = site.token("upgrades", "orders").await;
        let authority = ca_bundle(&site).await;
        assert!(authority.starts_with(b"-----BEGIN CERTIFICATE-----"));
        let values = site.values();
        for (mode, level) in
            [("auto", "debug"), ("true", "info"), ("false", "debug"), ("true", "warn"), ("auto", "info")]
        {
            let level = format!("logLevel={level}");
            let server_side = format!("--server-side={mode}");
            let chart = chart();
            site.helm_ok(&[
                "upgrade",
                RELEASE,
                &chart,
                "--values",
                path(&values),
                "--set",
                &level,
                &server_side,
                "--wait",
                "--timeout=120s",
            ]);
            assert_eq!(ca_bundle(&site).await, authority, "after an upgrade with {server_side}");
            assert_eq!(injects(&site, "upgrades"), Ok(()), "after an upgrade with {server_side}");
        }
        site.helm_ok(&["rollback", RELEASE, "1", "--wait", "--timeout=120s"]);
        assert_eq!(ca_bundle(&site).await, authority, "after a rollback");
        assert_eq!(injects(&site, "upgrades"), Ok(()), "after a rollback");
        assert_eq!(
            site.token("upgrades", "orders").await,
            token,
            "nothing that was still good was minted again"
        );
        let tested = site.helm_ok(&["test", RELEASE, "--timeout=120s"]);
        assert!(tested.contains("Succeeded"), "{tested}");
    });
}

#[test]
#[ignore = "tier node: needs a real node"]
fn an_uninstall_leaves_nothing_but_the_crds() {
    on_node(async |site: Arc<Site>| {
        let _turn = TURN.lock().await;
        site.uninstall().await;
        install(&site, "admitted", &[]);
        site.helm_ok(&["test", RELEASE, "--timeout=120s"]);
        let installed = of_release(&site);
        for object in [
            "Secret idtoken-system idtoken-operator-webhook-tls",
            "ClusterRole <none> idtoken-operator-controller",
        ] {
            assert!(installed.contains(object), "{object} is not in {installed:?}");
        }
        site.uninstall().await;
        let left = of_release(&site);
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        // The namespace was made by hand; the rest of what is in it, Kubernetes makes for each.
        assert_eq!(
            left,
            [
                "ConfigMap idtoken-system kube-root-ca.crt",
                "CustomResourceDefinition <none> idtokenbindings.idtoken.dev",
                "CustomResourceDefinition <none> idtokengrants.idtoken.dev",
                "Namespace <none> idtoken-system",
                "ServiceAccount idtoken-system default",
            ]
        );
    });
}

/// `kind namespace name` of all that the cluster keeps of the release and in its namespace, but for what passes by itself.
fn of_release(site: &Site) -> BTreeSet<String> {
    let passing = ["events", "events.events.k8s.io", "endpointslices.discovery.k8s.io", "endpoints"];
    let kinds = site.kubectl_ok(&["api-resources", "--verbs=list", "-o", "name"]);
    let kinds: Vec<_> = kinds.lines().filter(|kind| !passing.contains(kind)).collect();
    let columns = "-o=custom-columns=:kind,:metadata.namespace,:metadata.name";
    let listed = site.kubectl_ok(&["get", &kinds.join(","), "-A", "--no-headers", columns]);
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let ours = |line: &String| {
        line.contains("idtoken-operator")
            || line.contains(NAMESPACE)
            || (line.starts_with("CustomResourceDefinition ") && line.ends_with(".idtoken.dev"))
    };
    listed.lines().map(squeeze).filter(ours).collect()
}

/// A certificate of the user's own for the webhook's Service: authority, certificate and key in PEM.
fn certificate() -> [String; 3] {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["idtoken-operator-webhook.idtoken-system.svc".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    [authority.pem(), certificate.pem(), key.serialize_pem()]
}

#[test]
#[ignore = "tier node: needs a real node"]
fn scoped_mode_works_with_roles_alone_and_elsewhere_not_at_all() {
    on_node(async |site: Arc<Site>| {
        let _turn = TURN.lock().await;
        site.uninstall().await;
        site.namespace("beyond");
        site.namespace("scoped");
        site.release_namespace();
        let [authority, certificate, key] = certificate();
        site.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "my-certificate", "namespace": NAMESPACE},
            "type": "kubernetes.io/tls", "stringData": {"tls.crt": certificate, "tls.key": key},
        }));
        let values = site.write("scoped.yaml", &json!({
            "scope": {"namespaces": ["scoped"]},
            "grants": {"list": [{
                "name": "all", "namespaces": {"all": true}, "identities": [CALLER], "audiences": ["https://*.a.run.app"],
            }]},
            "webhook": {"tls": {"mode": "secret", "secretName": "my-certificate", "caBundle": authority}},
            "test": {"namespace": "scoped"},
        }));
        install(&site, "scoped", &["--values", path(&values)]);
        let labelled = [
            "get",
            "clusterroles,clusterrolebindings",
            "-l",
            "app.kubernetes.io/instance=idtoken-operator",
            "-o",
            "name",
        ];
        assert_eq!(site.kubectl_ok(&labelled), "", "no right in the whole cluster");
        site.apply(&binding("beyond", "orders", &impersonation(AUDIENCE)));
        site.bound("scoped", "orders", &impersonation(AUDIENCE)).await;
        site.helm_ok(&["test", RELEASE, "--timeout=120s"]);
        assert!(injects(&site, "beyond").is_err(), "the webhook is not registered there");
        let status =
            site.kubectl_ok(&["-n", "beyond", "get", "idtokenbinding", "orders", "-o", "jsonpath={.status}"]);
        assert_eq!(status, "", "nobody looked at it");
        site.uninstall().await;
        site.kubectl_ok(&["-n", NAMESPACE, "delete", "secret", "my-certificate"]);
    });
}
