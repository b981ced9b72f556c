//! The clients: a closed loop, in which each sends its next request when it has the answer to the last one.
//!
//! Each has a connection of its own over HTTP/1.1, as each request of an API server that is under way (k8s.io/apiserver,
//! `pkg/util/webhook/client.go`); or they share one of HTTP/2, as other clients do. All run on one thread: a client that costs
//! little leaves the processors to the server.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use futures::future::{poll_fn, try_join_all};
use h2::client as http2;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::population::Population;
use super::template::{Template, uid};
use super::usage::Usage;
use crate::process::Process;

/// A server under load.
pub(super) struct Server {
    addr: SocketAddr,
    tls: ClientConfig,
    process: Process,
}

/// What is asked for, and of whom.
#[derive(Clone)]
pub(super) struct Questions {
    pub(super) template: Template,
    /// Whose bindings are named.
    pub(super) population: Population,
    /// Whether answers must have a patch that mounts the binding's Secret.
    pub(super) patched: bool,
}

/// How a round is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) clients: u32,
    pub(super) time: Duration,
    pub(super) protocol: Protocol,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// HTTP/1.1 over a connection for each client, as an API server asks a webhook
    Http1,
    /// HTTP/2 over one connection for all of them
    Http2,
}

/// What was seen in a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub(super) elapsed: Duration,
    /// The server's processor time.
    pub(super) cpu: Duration,
    /// How long each request took, in nanoseconds, in no order.
    pub(super) latencies: Vec<u32>,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

impl Server {
    /// The server at `addr`, whose certificate is by `authority` (PEM).
    pub(super) fn new(addr: SocketAddr, authority: &str, process: Process) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { addr, tls, process })
    }

    /// What its process has used.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// What its process has printed.
    pub(super) fn log(&self) -> String {
        self.process.log()
    }

    /// Puts load on it for a while.
    pub(super) fn round(&self, questions: &Questions, load: Load) -> anyhow::Result<Round> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connections = self.connect(load).await?;
            let length = questions.check(&mut connections[0]).await?;
            let clients = connections.into_iter().zip(FIRST..);
            let client =
                |(connection, next)| Client { connection, questions, length, next, step: load.clients };
            let mut clients: Vec<_> = clients.map(client).collect();
            try_join_all(clients.iter_mut().map(|client| client.ask_for(WARM_UP))).await?;
            let (before, start) = (self.usage()?, Instant::now());
            let latencies =
                try_join_all(clients.iter_mut().map(|client| client.ask_for(load.time))).await?.concat();
            let elapsed = start.elapsed();
            let cpu = self.usage()?.cpu.saturating_sub(before.cpu);
            Ok(Round { elapsed, cpu, latencies })
        })
    }

    /// A way to ask for each client.
    async fn connect(&self, load: Load) -> anyhow::Result<Vec<Connection>> {
        if load.protocol == Protocol::Http1 {
            return try_join_all((0..load.clients).map(|_| self.http1())).await;
        }
        let (requests, connection) = http2::handshake(self.tls(b"h2").await?).await?;
        tokio::spawn(connection);
        Ok((0..load.clients).map(|_| Connection::Http2(requests.clone())).collect())
    }

    async fn http1(&self) -> anyhow::Result<Connection> {
        let (requests, connection) = http1::handshake(TokioIo::new(self.tls(b"http/1.1").await?)).await?;
        tokio::spawn(connection);
        Ok(Connection::Http1(requests))
    }

    async fn tls(&self, protocol: &[u8]) -> anyhow::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(self.addr.ip());
        let mut config = self.tls.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
    }
}

impl Questions {
    /// Asks once and reads the answer closely; its length, which all have.
    async fn check(&self, connection: &mut Connection) -> anyhow::Result<usize> {
        let (_, binding) = self.population.of(0);
        let answer = connection.ask(self.body(0)).await?;
        self.examine(&answer, &binding).with_context(|| {
            format!("not the answer that it should be: {}", String::from_utf8_lossy(&answer))
        })?;
        Ok(answer.len())
    }

    fn body(&self, serial: u32) -> Bytes {
        let (namespace, binding) = self.population.of(serial);
        self.template.fill(serial, &namespace, &binding)
    }

    fn examine(&self, answer: &[u8], binding: &str) -> anyhow::Result<()> {
        let answer: Value = serde_json::from_slice(answer)?;
        let response = &answer["response"];
        ensure!(response["uid"] == uid(0) && response["allowed"] == true);
        ensure!(response["warnings"].is_null(), "it warns");
        if self.patched {
            let patch = BASE64_STANDARD.decode(response["patch"].as_str().context("it has no patch")?)?;
            let secret = format!("\"{binding}-idtoken\"");
            ensure!(String::from_utf8(patch)?.contains(&secret), "its patch does not mention {secret}");
        }
        Ok(())
    }
}

/// What a client asks through.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Bytes>),
}

struct Client<'a> {
    connection: Connection,
    questions: &'a Questions,
    length: usize,
    next: u32,
    step: u32,
}

impl Client<'_> {
    async fn ask_for(&mut self, time: Duration) -> anyhow::Result<Vec<u32>> {
        let end = Instant::now() + time;
        let mut latencies = Vec::new();
        loop {
            let body = self.questions.body(self.next);
            self.next += self.step;
            let start = Instant::now();
            let answer = self.connection.ask(body).await?;
            let now = Instant::now();
            ensure!(answer.len() == self.length, "an odd answer: {}", String::from_utf8_lossy(&answer));
            latencies.push(u32::try_from((now - start).as_nanos()).unwrap_or(u32::MAX));
            if now >= end {
                return Ok(latencies);
            }
        }
    }
}

impl Connection {
    async fn ask(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        let (head, answer) = match self {
            Self::Http1(connection) => {
                let request = Request::post("/mutate").header("host", "127.0.0.1");
                connection.ready().await?;
                let request = request.header(CONTENT_TYPE, JSON).body(Full::new(body))?;
                let (head, body) = connection.send_request(request).await?.into_parts();
                (head, body.collect().await?.to_bytes())
            }
            Self::Http2(connection) => {
                let request = Request::post("https://127.0.0.1/mutate").header(CONTENT_TYPE, JSON).body(())?;
                poll_fn(|context| connection.poll_ready(context)).await?;
                let (response, mut stream) = connection.send_request(request, false)?;
                stream.send_data(body, true)?;
                let (head, mut body) = response.await?.into_parts();
                let mut answer = BytesMut::new();
                while let Some(chunk) = body.data().await.transpose()? {
                    body.flow_control().release_capacity(chunk.len())?;
                    answer.extend_from_slice(&chunk);
                }
                (head, answer.freeze())
            }
        };
        ensure!(head.status == StatusCode::OK, "{}: {}", head.status, String::from_utf8_lossy(&answer));
        Ok(answer)
    }
}

const JSON: &str = "application/json";
/// The serials of the first question; those before it are for checks.
const FIRST: u32 = 1;
const WARM_UP: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_right_answer_is_one() {
        let questions =
            |patched| Questions { template: Template::new().unwrap(), population: Population(1), patched };
        let answer = |response: Value| json!({"response": response}).to_string().into_bytes();
        let echo = answer(json!({"uid": "00000000-0000-4000-8000-000000000", "allowed": true}));
        let is_right = |patched, answer: &[u8]| questions(patched).examine(answer, "orders-00000").is_ok();
        assert!(is_right(false, &echo) && !is_right(true, &echo));
        assert!(!is_right(false, &answer(json!({"uid": "x", "allowed": true}))));
        let patched = |secret: &str| {
            let patch = BASE64_STANDARD.encode(format!(r#"[{{"name": "{secret}"}}]"#));
            answer(json!({"uid": "00000000-0000-4000-8000-000000000", "allowed": true, "patch": patch}))
        };
        assert!(is_right(true, &patched("orders-00000-idtoken")));
        assert!(!is_right(true, &patched("orders-00001-idtoken")));
    }
}
