//! What the kubelet hears of the webhook from its start to its end, and what a client meets meanwhile.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{OPERATOR_NAMESPACE, SOON, World, google_options, http_get};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use xtask::{cluster::ClusterOptions, process::send_signal, process::wait_for};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_webhook_is_ready_once_registered_and_stays_so_without_the_api_server() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.spawn_webhook(world.webhook_port).await;
    let port = world.webhook_health_port;
    wait_for("its start", SOON, || expect(port, "/startupz", "200", "ok")).await.unwrap();
    let unregistered = "the MutatingWebhookConfiguration does not hold our caBundle yet";
    expect(port, "/readyz", "503", unregistered).await.unwrap();
    expect(port, "/healthz", "200", "ok").await.unwrap();
    world.register_webhook();
    world.wait_ready(port).await;

    for pid in world.cluster.pids() {
        send_signal(pid, "STOP").unwrap();
    }
    // Longer than a call to the API server may last, so that each keeper has met the outage.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for probe in ["/startupz", "/healthz", "/readyz"] {
        expect(port, probe, "200", "ok").await.unwrap();
    }
    for pid in world.cluster.pids() {
        send_signal(pid, "CONT").unwrap();
    }
    // The registration goes; that it was there once is enough.
    let (ok, output) = world.kubectl(&["delete", "mutatingwebhookconfiguration", "idtoken-operator"], None);
    assert!(ok, "{output}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    expect(port, "/readyz", "200", "ok").await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn at_sigterm_readiness_goes_running_requests_end_and_the_exit_is_clean() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.start_webhook().await;
    let health = world.webhook_health_port;
    let (mut running, rest) = half_a_request(&world).await;
    world.signal_webhook("TERM");
    let ending = || expect(health, "/readyz", "503", "the process is ending");
    wait_for("readiness to go", SOON, ending).await.unwrap();
    expect(health, "/healthz", "200", "ok").await.unwrap();
    let port = world.webhook_port;
    wait_for("the port to close", SOON, || async {
        anyhow::ensure!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it is open");
        Ok(())
    })
    .await
    .unwrap();
    running.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    running.read_to_string(&mut answer).await.unwrap();
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains(r#""uid":"7""#), "{answer}");
    assert_eq!(world.webhook_ended().await, Some(0));

    // Whoever asks twice does not want to wait for the drain.
    world.run_webhook(port).await;
    let (_running, _) = half_a_request(&world).await;
    world.signal_webhook("TERM");
    let health = world.webhook_health_port;
    wait_for("readiness to go", SOON, || expect(health, "/readyz", "503", "the process is ending"))
        .await
        .unwrap();
    world.signal_webhook("INT");
    assert_eq!(world.webhook_ended().await, Some(1));
    assert!(world.logs().contains("ended at once by a second signal"));
    world.end().await;
}

async fn expect(port: u16, path: &str, status: &str, text: &str) -> anyhow::Result<()> {
    let answer = http_get(port, path).await?;
    let found = answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with(&format!("{text}\n"));
    anyhow::ensure!(found, "{path}: {answer}");
    Ok(())
}

/// A review whose second half is still to come, and that half.
async fn half_a_request(world: &World) -> (TlsStream<TcpStream>, String) {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "7", "namespace": "shop", "operation": "DELETE"},
    });
    let body = review.to_string();
    let (first, rest) = body.split_at(body.len() / 2);
    let mut tls = connect(world).await;
    let head = format!(
        "POST /mutate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await; // it has begun there
    (tls, rest.to_owned())
}

async fn connect(world: &World) -> TlsStream<TcpStream> {
    let secrets = Api::<Secret>::namespaced(world.client.clone(), OPERATOR_NAMESPACE);
    let authority =
        secrets.get("idtoken-operator-webhook-tls").await.unwrap().data.unwrap()["ca.crt"].clone();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&authority.0) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", world.webhook_port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}
