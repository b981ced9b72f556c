//! Admissions of annotated pods: one after the other, or many at a time; and how the API server is told whom to trust.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Pod};
use kube::{Api, Client, api::PostParams};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use xtask::process::wait_for;

use super::World;

/// The name of the webhook's registration.
pub const CONFIGURATION: &str = "idtoken-operator";

/// Creates a pod in `shop`; an annotated one must come back with its volume. The error is the API server's message.
pub async fn create(client: &Client, name: &str, annotated: bool, dry_run: bool) -> anyhow::Result<()> {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    if annotated {
        pod["metadata"]["annotations"] = json!({"idtoken.dev/inject": "orders"});
    }
    let api = Api::<Pod>::namespaced(client.clone(), "shop");
    let pod = serde_json::from_value(pod)?;
    match api.create(&PostParams { dry_run, field_manager: None }, &pod).await {
        Ok(created) => {
            let volumes = created.spec.unwrap().volumes.unwrap_or_default();
            let injected = volumes.iter().any(|volume| volume.name == "idtoken");
            anyhow::ensure!(injected == annotated, "its volumes are {volumes:?}");
            Ok(())
        }
        Err(kube::Error::Api(status)) => anyhow::bail!("{}", status.message),
        Err(error) => Err(error.into()),
    }
}

/// Dry-run creations of annotated pods, always so many of them in flight.
pub struct Flood {
    tally: Arc<Tally>,
    workers: JoinSet<Vec<String>>,
}

#[derive(Default)]
struct Tally {
    sent: AtomicU64,
    admitted: AtomicU64,
    over: AtomicBool,
}

impl Flood {
    pub fn start(client: &Client, in_flight: usize) -> Self {
        let tally = Arc::new(Tally::default());
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            workers.spawn(work(client.clone(), tally.clone()));
        }
        Self { tally, workers }
    }

    pub fn admitted(&self) -> u64 {
        self.tally.admitted.load(Relaxed)
    }

    /// Whether an admission has failed: the flood ends by then.
    pub fn is_over(&self) -> bool {
        self.tally.over.load(Relaxed)
    }

    /// How many were sent, how many of them were admitted with their volume, and what the API server said to the others.
    pub async fn end(self) -> (u64, u64, Vec<String>) {
        self.tally.over.store(true, Relaxed);
        let failures = self.workers.join_all().await.concat();
        (self.tally.sent.load(Relaxed), self.tally.admitted.load(Relaxed), failures)
    }
}

async fn work(client: Client, tally: Arc<Tally>) -> Vec<String> {
    let mut failures = Vec::new();
    while !tally.over.load(Relaxed) {
        let number = tally.sent.fetch_add(1, Relaxed);
        match create(&client, &format!("pod-{number}"), true, true).await {
            Ok(()) => drop(tally.admitted.fetch_add(1, Relaxed)),
            Err(error) => {
                failures.push(format!("{error:#}"));
                tally.over.store(true, Relaxed); // one is enough
            }
        }
    }
    failures
}

pub async fn configuration(world: &World) -> MutatingWebhookConfiguration {
    Api::all(world.client.clone()).get(CONFIGURATION).await.unwrap()
}

/// The CAs that the API server trusts, PEM; empty when there are none.
pub async fn bundle(world: &World) -> String {
    let webhooks = configuration(world).await.webhooks.unwrap();
    assert_eq!(webhooks.len(), 1);
    let bundle = webhooks[0].client_config.ca_bundle.clone().unwrap_or_default();
    String::from_utf8(bundle.0).unwrap()
}

/// Waits until the bundle is as it should be, for which 10 s are promised. How long it took.
pub async fn restored(world: &World, good: impl Fn(&str) -> bool) -> Duration {
    let since = Instant::now();
    let waited = wait_for("caBundle", Duration::from_secs(10), || async {
        let webhooks = configuration(world).await.webhooks.unwrap_or_default();
        let bundles = webhooks.iter().map(|webhook| webhook.client_config.ca_bundle.clone());
        let now: Vec<_> =
            bundles.map(|bundle| String::from_utf8(bundle.unwrap_or_default().0).unwrap()).collect();
        anyhow::ensure!(now.len() == 1 && good(&now[0]), "it is {now:?}");
        Ok(())
    });
    if let Err(error) = waited.await {
        panic!("{error:#} after {:?}\n{}", since.elapsed(), world.logs());
    }
    since.elapsed()
}

/// Connects as the API server does, trusting `bundle` alone; the certificate that was presented (DER).
pub async fn handshake(port: u16, bundle: &str) -> anyhow::Result<Vec<u8>> {
    let tls = connect(port, bundle).await?;
    Ok(tls.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// Sends a review past the API server, over a connection of its own; the status and what was answered.
pub async fn review(port: u16, bundle: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let mut tls = connect(port, bundle).await?;
    let head = format!(
        "POST /mutate HTTP/1.1\r\nhost: webhook\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tls.write_all(head.as_bytes()).await?;
    tls.write_all(body.as_bytes()).await?;
    tls.flush().await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

async fn connect(port: u16, bundle: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}
