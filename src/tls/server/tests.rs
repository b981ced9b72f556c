#![allow(clippy::unwrap_used)]
mod drain;

use std::net::SocketAddr;

use axum::{Router, routing::get};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use tokio::{io::AsyncReadExt, task::JoinHandle};

use super::*;
use crate::tls::resolver::{HotCert, server_config};

type Https = Client<hyper_rustls::HttpsConnector<HttpConnector>, http_body_util::Empty<bytes::Bytes>>;

struct Running {
    addr: SocketAddr,
    hot: Arc<HotCert>,
    counters: Counters,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

#[tokio::test]
async fn certificate_is_exchanged_under_running_connections() {
    let (old, new) = (authority(), authority());
    let server = start(limits()).await;
    let first = client(&old);
    assert!(first.get(server.uri("/")).await.is_err(), "no certificate yet");
    publish(&server.hot, &old);
    assert_eq!(first.get(server.uri("/")).await.unwrap().version(), http::Version::HTTP_2);

    publish(&server.hot, &new);
    assert_eq!(first.get(server.uri("/")).await.unwrap().status(), 200, "its connection goes on");
    assert_eq!(client(&new).get(server.uri("/")).await.unwrap().status(), 200);
    assert!(client(&old).get(server.uri("/")).await.is_err());
    assert_eq!(server.counters.connections.get(), 4);
    // The client is through with a handshake before the server is.
    timeout(Duration::from_secs(5), server.failed_handshakes(2)).await.unwrap();
}

#[tokio::test]
async fn silent_connection_is_closed_and_counted() {
    let server = start(Limits { handshake: Duration::from_millis(50), ..limits() }).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(server.counters.failed_handshakes.get(), 1);
}

#[tokio::test]
async fn connection_that_is_silent_after_its_handshake_is_closed() {
    let authority = authority();
    let bounds = Limits { handshake: Duration::from_secs(1), headers: Duration::from_secs(1), ..limits() };
    let server = start(bounds).await;
    publish(&server.hot, &authority);
    for protocol in ["h2", "http/1.1"] {
        let mut silent = drain::connect(&server, &authority, protocol).await;
        let mut answer = Vec::new();
        timeout(Duration::from_secs(5), silent.read_to_end(&mut answer)).await.expect(protocol).ok();
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let authority = authority();
    let server = start(Limits { connections: 1, handshake: Duration::from_millis(300), ..limits() }).await;
    publish(&server.hot, &authority);
    let _holds_the_only_place = TcpStream::connect(server.addr).await.unwrap();
    let start = Instant::now();
    assert_eq!(client(&authority).get(server.uri("/")).await.unwrap().status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
}

#[tokio::test]
async fn running_request_is_finished_and_no_new_one_begun() {
    let authority = authority();
    let server = start(limits()).await;
    publish(&server.hot, &authority);
    let (client, slow) = (client(&authority), server.uri("/slow"));
    let request = tokio::spawn(async move { client.get(slow).await.unwrap().status() });
    while server.counters.connections.get() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await; // the handshake
    server.cancel.cancel();
    server.task.await.unwrap();
    assert_eq!(request.await.unwrap(), 200);
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn drain_ends_in_time() {
    let authority = authority();
    let server = start(Limits { drain: Duration::from_millis(100), ..limits() }).await;
    publish(&server.hot, &authority);
    let (client, endless) = (client(&authority), server.uri("/endless"));
    let _request = tokio::spawn(async move { client.get(endless).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.cancel.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

impl Running {
    async fn failed_handshakes(&self, count: u64) {
        while self.counters.failed_handshakes.get() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn uri(&self, path: &str) -> http::Uri {
        format!("https://localhost:{}{path}", self.addr.port()).parse().unwrap()
    }
}

async fn start(limits: Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, hot) = (listener.local_addr().unwrap(), Arc::new(HotCert::default()));
    let config = Arc::new(server_config(hot.clone()).unwrap());
    let app = Router::new()
        .route("/", get(async || "ok"))
        .route("/slow", get(async || tokio::time::sleep(Duration::from_millis(600)).await))
        .route("/endless", get(async || std::future::pending::<()>().await));
    let (counters, cancel) = (Counters::default(), CancellationToken::new());
    let app = TowerToHyperService::new(app);
    let task = tokio::spawn(serve(listener, config, app, limits, counters.clone(), cancel.clone()));
    Running { addr, hot, counters, cancel, task }
}

fn limits() -> Limits {
    Limits { idle: Duration::from_millis(1500), drain: Duration::from_secs(5), ..Limits::default() }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn publish(hot: &HotCert, authority: &CertifiedIssuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    hot.publish(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
}

/// A client of its own, so that it makes a connection of its own.
fn client(authority: &CertifiedIssuer<'static, KeyPair>) -> Https {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(client_config(authority))
        .https_only()
        .enable_all_versions();
    Client::builder(TokioExecutor::new()).build(connector.build())
}

fn client_config(authority: &CertifiedIssuer<'static, KeyPair>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
