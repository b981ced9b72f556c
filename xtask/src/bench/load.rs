//! The clients: a closed loop, in which each sends its next request when it has the answer to the last one.
//!
//! Each has a connection of its own over HTTP/1.1, as each request of an API server that is under way (k8s.io/apiserver,
//! `pkg/util/webhook/client.go`). All run on one thread: a client that costs little leaves the processors to the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::population::Population;
use super::template::{Template, uid};
use super::usage::Usage;
use crate::process::Process;

/// A server under load.
pub(super) struct Server {
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
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

impl Server {
    /// The server at `addr`, whose certificate is by `authority` (PEM).
    pub(super) fn new(addr: SocketAddr, authority: &str, process: Process) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { addr, tls: Arc::new(config), process })
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
            let mut connections = try_join_all((0..load.clients).map(|_| self.connect())).await?;
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

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(self.addr.ip());
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let (requests, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(requests)
    }
}

impl Questions {
    /// Asks once and reads the answer closely; its length, which all have.
    async fn check(&self, connection: &mut SendRequest<Full<Bytes>>) -> anyhow::Result<usize> {
        let (_, binding) = self.population.of(0);
        let answer = ask(connection, self.body(0)).await?;
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

struct Client<'a> {
    connection: SendRequest<Full<Bytes>>,
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
            let answer = ask(&mut self.connection, body).await?;
            let now = Instant::now();
            ensure!(answer.len() == self.length, "an odd answer: {}", String::from_utf8_lossy(&answer));
            latencies.push(u32::try_from((now - start).as_nanos()).unwrap_or(u32::MAX));
            if now >= end {
                return Ok(latencies);
            }
        }
    }
}

async fn ask(connection: &mut SendRequest<Full<Bytes>>, body: Bytes) -> anyhow::Result<Bytes> {
    let request = Request::post("/mutate")
        .header("host", "127.0.0.1")
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    connection.ready().await?;
    let (head, body) = connection.send_request(request).await?.into_parts();
    let answer = body.collect().await?.to_bytes();
    ensure!(head.status == StatusCode::OK, "{}: {}", head.status, String::from_utf8_lossy(&answer));
    Ok(answer)
}

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
