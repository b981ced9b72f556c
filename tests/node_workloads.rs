//! On a real node, with the operator installed by Helm: what the kubelet makes of the mounted Secret, in every kind of
//! workload, under Pod Security `restricted`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

#[path = "common/envoy/configuration.rs"]
mod configuration;
mod site;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use site::{
    AUDIENCE, CALLER, PYTHON, SHELL, SOON, Site, impersonation, on_node,
    pods::{self, container, inject, phase, pod, restarts, template},
    sha256,
};
use xtask::process::wait_for;

/// Prints who it is and what the token's file is: `init 10001 <SHA-256>`.
const TELL: &str = r#"echo "$1 $(id -u) $(sha256sum "$IDTOKEN_FILE" | cut -d' ' -f1)""#;

fn tell(who: &str) -> String {
    format!("set -e; set -- {who}; {TELL}")
}

/// Init and main container tell; then `rest` happens.
fn telling(annotations: &Value, rest: &str) -> Value {
    let mut template = template(annotations, &format!("{}; {rest}", tell("main")));
    template["spec"]["initContainers"] = json!([container("init", SHELL, &["sh", "-c", &tell("init")])]);
    template
}

fn labelled(mut template: Value, app: &str) -> Value {
    template["metadata"]["labels"] = json!({"app": app});
    template
}

async fn assert_told(site: &Site, namespace: &str, app: &str) {
    let hash = sha256(&site.token(namespace, "orders").await);
    for who in ["init", "main"] {
        let line = site.wait_log(namespace, &format!("app={app}"), who, |line| line.starts_with(who)).await;
        assert_eq!(line, format!("{who} 10001 {hash}"), "{app}: {who}");
    }
}

#[test]
#[ignore = "tier node: needs a real node"]
fn a_deployment_reads_the_token_as_any_user() {
    on_node(async |site: Arc<Site>| {
        site.installed().await;
        site.tenant("deployments");
        site.bound("deployments", "orders", &impersonation(AUDIENCE)).await;
        for (app, group, mode) in [("plain", None, None), ("grouped", Some(20_002), Some("0440"))] {
            let mut annotations = inject("orders");
            if let Some(mode) = mode {
                annotations["idtoken.dev/file-mode"] = json!(mode);
            }
            let mut template = labelled(telling(&annotations, "exec sleep 3600"), app);
            template["spec"]["restartPolicy"] = json!("Always");
            if let Some(group) = group {
                template["spec"]["securityContext"]["fsGroup"] = json!(group);
            }
            site.apply(&json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "namespace": "deployments"},
                "spec": {"selector": {"matchLabels": {"app": app}}, "template": template},
            }));
            assert_told(&site, "deployments", app).await;
            site.kubectl_ok(&[
                "-n",
                "deployments",
                "rollout",
                "status",
                &format!("deployment/{app}"),
                "--timeout=30s",
            ]);
        }
        let listing = "ls -lnL $IDTOKEN_FILE | cut -d' ' -f1; ls -lnL $IDTOKEN_FILE | awk '{print $3, $4}'";
        for (app, expected) in [("plain", "-r--r--r--\n0 0\n"), ("grouped", "-r--r-----\n0 20002\n")] {
            let target = format!("deployment/{app}");
            let printed = site.kubectl_ok(&[
                "-n",
                "deployments",
                "exec",
                &target,
                "-c",
                "main",
                "--",
                "sh",
                "-c",
                listing,
            ]);
            assert_eq!(printed, expected, "{app}");
        }
    });
}

#[test]
#[ignore = "tier node: needs a real node"]
fn a_job_and_a_cron_job_read_the_token_and_finish() {
    on_node(async |site: Arc<Site>| {
        site.installed().await;
        site.tenant("jobs");
        site.bound("jobs", "orders", &impersonation(AUDIENCE)).await;
        let job = |app: &str, fs_group: bool| {
            let mut template = labelled(telling(&inject("orders"), "exit 0"), app);
            if fs_group {
                template["spec"]["securityContext"]["fsGroup"] = json!(20_002);
            }
            json!({"backoffLimit": 0, "template": template})
        };
        site.apply(&json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "every-minute", "namespace": "jobs"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job("cron", true)}},
        }));
        site.apply(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": "jobs"},
            "spec": job("job", false),
        }));
        assert_told(&site, "jobs", "job").await;
        site.kubectl_ok(&["-n", "jobs", "wait", "--for=condition=Complete", "job/once", "--timeout=30s"]);
        let line = site
            .wait_log_within("jobs", "app=cron", "main", Duration::from_secs(90), |line| {
                line.starts_with("main")
            })
            .await;
        assert_eq!(line, format!("main 10001 {}", sha256(&site.token("jobs", "orders").await)));
        let job = site.kubectl_ok(&[
            "-n",
            "jobs",
            "get",
            "pod",
            "-l",
            "app=cron",
            "-o",
            "jsonpath={.items[0].metadata.labels.job-name}",
        ]);
        site.kubectl_ok(&[
            "-n",
            "jobs",
            "wait",
            "--for=condition=Complete",
            &format!("job/{job}"),
            "--timeout=30s",
        ]);
        site.kubectl_ok(&["-n", "jobs", "delete", "cronjob", "every-minute"]);
    });
}

#[test]
#[ignore = "tier node: needs a real node"]
fn googles_library_and_envoy_accept_the_token_inside_the_cluster() {
    on_node(async |site: Arc<Site>| {
        site.installed().await;
        site.tenant("services");
        site.bound("services", "orders", &impersonation(AUDIENCE)).await;
        site.bound("services", "other", &impersonation("https://other-abc-uc.a.run.app")).await;
        site.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "google", "namespace": "services"},
            "data": {
                "ca.crt": site.google.certificate_authority().unwrap(),
                "verify.py": include_str!("site/verify.py"),
                "envoy.json": envoy(&site).to_string(),
            },
        }));
        start_envoy(&site).await;
        let script = include_str!("site/call.sh");
        let mut caller = labelled(template(&inject("orders,other"), script), "caller");
        caller["spec"]["containers"][0]["env"] = json!([{"name": "TARGET", "value": target(&site)}]);
        let mut python = container("verify", PYTHON, &["/usr/bin/python3", "/google/verify.py"]);
        python["env"] = json!([
            {"name": "CERTS_URL", "value": site.google.certs_v1_url()},
            {"name": "AUDIENCE", "value": AUDIENCE},
            {"name": "REQUESTS_CA_BUNDLE", "value": "/google/ca.crt"},
        ]);
        python["volumeMounts"] = json!([{"name": "google", "mountPath": "/google", "readOnly": true}]);
        caller["spec"]["containers"].as_array_mut().unwrap().push(python);
        caller["spec"]["volumes"] = json!([{"name": "google", "configMap": {"name": "google"}}]);
        site.apply(&pod("services", "caller", &caller));

        let line = site.wait_log("services", "app=caller", "verify", |line| line.starts_with("done")).await;
        assert_eq!(line, "done");
        let verified = site.kubectl_ok(&["-n", "services", "logs", "caller", "-c", "verify"]);
        let expected = format!(
            "verified {AUDIENCE} {CALLER}\nrefused for another audience: Token has wrong audience {AUDIENCE}, expected one of ['https://elsewhere.a.run.app']\nrefused when changed\ndone\n"
        );
        assert_eq!(verified, expected);
        site.wait_log("services", "app=caller", "main", |line| line == "done").await;
        let called = site.kubectl_ok(&["-n", "services", "logs", "caller", "-c", "main"]);
        assert_eq!(
            called,
            "with the token: 200 hello from orders\nwithout: 401\nwith another audience's token: 403\ndone\n"
        );
    });
}

/// Where pods find Envoy.
fn target(site: &Site) -> String {
    let address =
        site.kubectl_ok(&["-n", "services", "get", "service", "orders", "-o", "jsonpath={.spec.clusterIP}"]);
    format!("http://{address}")
}

async fn start_envoy(site: &Site) {
    let command = [
        "/usr/local/bin/envoy",
        "--config-path",
        "/google/envoy.json",
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ];
    let mut envoy = labelled(template(&json!({}), ""), "orders");
    envoy["spec"]["containers"] = json!([container("envoy", PYTHON, &command)]);
    envoy["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "google", "mountPath": "/google", "readOnly": true}]);
    envoy["spec"]["containers"][0]["readinessProbe"] =
        json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    envoy["spec"]["volumes"] = json!([{"name": "google", "configMap": {"name": "google"}}]);
    site.apply(&pod("services", "orders", &envoy));
    site.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders", "namespace": "services"},
        "spec": {"selector": {"app": "orders"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }));
    site.wait_pod("services", "orders", "Envoy to be ready", SOON, |pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    })
    .await;
}

/// Envoy with Google's keys, for one audience.
fn envoy(site: &Site) -> Value {
    let jwks: http::Uri = site.google.jwks_url().parse().unwrap();
    let provider = json!({
        "issuer": "https://accounts.google.com",
        "audiences": [AUDIENCE],
        "remote_jwks": {
            "http_uri": {"uri": jwks.to_string(), "cluster": "google", "timeout": "5s"},
            "cache_duration": "300s",
        },
    });
    let google = configuration::socket(jwks.host().unwrap(), jwks.port_u16().unwrap());
    let clusters = json!([{
        "name": "google",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "google", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": google}}]}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"validation_context": {"trusted_ca": {"filename": "/google/ca.crt"}}},
        }},
    }]);
    configuration::bootstrap(("0.0.0.0", 8080), &[("/".to_owned(), provider)], &clusters)
}

/// The kubelet's own period is what decides: it looks at the Secrets of a pod about once a minute.
#[test]
#[ignore = "tier node: needs a real node"]
fn a_refresh_reaches_a_running_pod_before_the_old_token_expires() {
    on_node(async |site: Arc<Site>| {
        site.installed().await;
        site.tenant("refresh");
        site.google.set_id_token_lifetime_for("https://refresh-abc-uc.a.run.app", Duration::from_secs(240));
        let spec = json!({
            "audience": "https://refresh-abc-uc.a.run.app",
            "source": {"impersonation": {"serviceAccount": CALLER}},
            "refresh": {"atLifetimePercent": 20},
        });
        let bound = site.bound("refresh", "orders", &spec).await;
        let first_expiry = bound.status.unwrap().expiration_time.unwrap();
        let first = sha256(&site.token("refresh", "orders").await);
        let script = r#"while :; do
            now=$(sha256sum "$IDTOKEN_FILE" | cut -d' ' -f1)
            [ "$now" = "$last" ] || echo "$now $(date +%s)"
            last=$now
            sleep 1
        done"#;
        site.apply(&pod("refresh", "reader", &labelled(template(&inject("orders"), script), "reader")));
        let line = site.wait_log("refresh", "app=reader", "main", |line| line.starts_with(&first)).await;
        let started: i64 = line.split(' ').nth(1).unwrap().parse().unwrap();

        let line = site
            .wait_log_within("refresh", "app=reader", "main", Duration::from_secs(235), |line| {
                !line.starts_with(&first)
            })
            .await;
        let (second, changed) = line.split_once(' ').unwrap();
        let changed = Timestamp::from_second(changed.parse().unwrap()).unwrap();
        assert!(
            changed < first_expiry,
            "the file changed at {changed}, the old token ended at {first_expiry}"
        );
        assert_eq!(second, sha256(&site.token("refresh", "orders").await));
        let api = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(site.client.clone(), "refresh");
        assert_eq!(restarts(&api.get("reader").await.unwrap()), 0);
        println!(
            "the refreshed token was in the file {} s after the first, {} s before that one's end",
            changed.as_second() - started,
            first_expiry.as_second() - changed.as_second()
        );
    });
}

#[test]
#[ignore = "tier node: needs a real node"]
fn a_pod_waits_for_its_binding_unless_it_is_optional() {
    on_node(async |site: Arc<Site>| {
        site.installed().await;
        site.tenant("waiting");
        let tells = format!("{}; exec sleep 3600", tell("main"));
        let (ok, said) = site.kubectl_with(
            &["apply", "-f", "-"],
            &pod("waiting", "strict", &labelled(template(&inject("orders"), &tells), "strict")).to_string(),
        );
        assert!(ok, "{said}");
        assert!(said.contains(r#"Warning: IdTokenBinding "orders" is not known (yet)"#), "{said}");
        let mut annotations = inject("orders");
        annotations["idtoken.dev/optional"] = json!("true");
        let waits =
            r#"[ -e "$IDTOKEN_FILE" ] || echo "without"; while [ ! -s "$IDTOKEN_FILE" ]; do sleep 1; done; "#;
        let optional = labelled(template(&annotations, &format!("{waits}{tells}")), "optional");
        site.apply(&pod("waiting", "optional", &optional));

        site.wait_log("waiting", "app=optional", "main", |line| line == "without").await;
        let failed = "--field-selector=reason=FailedMount,involvedObject.name=strict";
        wait_for("the kubelet to say what it waits for", SOON, || async {
            let messages = ["-n", "waiting", "get", "events", failed, "-o", "jsonpath={.items[*].message}"];
            let said = site.kubectl_ok(&messages);
            anyhow::ensure!(said.contains(r#"secret "orders-idtoken" not found"#), "{said}");
            Ok(())
        })
        .await
        .unwrap();
        let strict = site.wait_pod("waiting", "strict", "strict to exist", SOON, |_| true).await;
        assert_eq!(phase(&strict), "Pending");

        site.bound("waiting", "orders", &impersonation(AUDIENCE)).await;
        let hash = sha256(&site.token("waiting", "orders").await);
        // The kubelet tries a failed mount again after up to about two minutes, and looks at optional files once a minute.
        for app in ["strict", "optional"] {
            let selector = format!("app={app}");
            let line = site
                .wait_log_within("waiting", &selector, "main", Duration::from_secs(150), |line| {
                    line.starts_with("main")
                })
                .await;
            assert_eq!(line, format!("main {} {hash}", pods::USER), "{app}");
        }
        let strict =
            site.wait_pod("waiting", "strict", "strict to run", SOON, |pod| phase(pod) == "Running").await;
        assert_eq!(restarts(&strict), 0);
    });
}
