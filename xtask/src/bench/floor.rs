//! The floor: the least that could answer an AdmissionReview with the same libraries. It reads the body and the uid, and lets
//! everything in. A webhook can't be faster than this without giving up axum, hyper or rustls.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::post;
use clap::Args;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::cluster::certificates::Authority;
use crate::cluster::kubeconfig::write_private;
use crate::process::{Program, wait_for};

use super::load::Server;

/// The server that only echoes the uid
#[derive(Debug, Args)]
pub(super) struct FloorArgs {
    /// Where to listen
    #[arg(long)]
    addr: SocketAddr,
    /// Certificate (PEM)
    #[arg(long)]
    certificate: PathBuf,
    /// Its key (PEM)
    #[arg(long)]
    key: PathBuf,
}

/// Serves until the process is ended.
pub(super) async fn run(args: FloorArgs) -> anyhow::Result<()> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(
        vec![CertificateDer::from_pem_file(args.certificate)?],
        PrivateKeyDer::from_pem_file(args.key)?,
    )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let app = Router::new().route("/mutate", post(echo));
    let listener = TcpListener::bind(args.addr).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tokio::spawn(connection(tcp, acceptor.clone(), app.clone()));
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, app: Router) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let builder = auto::Builder::new(TokioExecutor::new());
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let served = if is_http2 { builder.http2_only() } else { builder.http1_only() }
        .serve_connection(TokioIo::new(tls), TowerToHyperService::new(app))
        .await;
    served.map_err(anyhow::Error::from_boxed)
}

#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    uid: &'a str,
}

async fn echo(body: Bytes) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let review: Review<'_> = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let uid = review.request.uid;
    let answer = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"{uid}","allowed":true}}}}"#
    );
    Ok(([(CONTENT_TYPE, "application/json")], answer))
}

/// Starts one as a process of its own, with a certificate of its own, and waits until it answers.
pub(super) async fn start(directory: &Path) -> anyhow::Result<Server> {
    let (args, authority) = prepare(directory)?;
    let process = Program::new(std::env::current_exe().context("this program's own file is unknown")?)
        .args(["bench", "floor", "--addr", &args.addr.to_string(), "--certificate"])
        .arg(&args.certificate)
        .arg("--key")
        .arg(&args.key)
        .spawn(&directory.join("floor.log"))?;
    listening(args.addr).await.with_context(|| process.log())?;
    Server::new(args.addr, &authority, process)
}

/// A free address, and a certificate for it with its authority.
fn prepare(directory: &Path) -> anyhow::Result<(FloorArgs, String)> {
    let authority = Authority::new()?;
    let credential = authority.server(&["127.0.0.1"])?;
    let (certificate, key) = (directory.join("floor.crt"), directory.join("floor.key"));
    write_private(&certificate, &credential.certificate)?;
    write_private(&key, &credential.key)?;
    let addr = SocketAddr::from(([127, 0, 0, 1], crate::port::free()?));
    Ok((FloorArgs { addr, certificate, key }, authority.pem()))
}

async fn listening(addr: SocketAddr) -> anyhow::Result<()> {
    wait_for("the floor", START, async || TcpStream::connect(addr).await.map(drop).map_err(Into::into)).await
}

const START: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::load::{Load, Protocol, Questions};
    use super::super::population::Population;
    use super::super::template::Template;
    use super::*;

    /// The floor is such a server: as a webhook it is not measured.
    #[test]
    fn a_server_whose_answers_have_no_patch_is_measured_as_the_floor_only() {
        let directory = tempfile::tempdir().unwrap();
        let (args, authority) = prepare(directory.path()).unwrap();
        let (addr, runtime) = (args.addr, tokio::runtime::Runtime::new().unwrap());
        let (floor, server) = runtime.block_on(async {
            let floor = tokio::spawn(run(args));
            listening(addr).await.unwrap();
            let process = Program::new("sleep").args(["60"]).spawn(&directory.path().join("log")).unwrap();
            (floor, Server::new(addr, &authority, process).unwrap())
        });
        let round = |patched, protocol| {
            let load = Load { clients: 2, time: Duration::from_millis(1), protocol };
            let questions =
                Questions { template: Template::new().unwrap(), population: Population(1), patched };
            server.round(&questions, load)
        };
        for protocol in [Protocol::Http1, Protocol::Http2] {
            assert!(round(false, protocol).unwrap().latencies.len() >= 2);
            assert_eq!(round(true, protocol).unwrap_err().root_cause().to_string(), "it has no patch");
        }
        assert!(!floor.is_finished());
    }
}
