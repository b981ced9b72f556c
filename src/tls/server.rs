//! The accept loop: TLS, HTTP/2 and HTTP/1.1, with a bound on everything that a client could drag out.
use std::{
    convert::Infallible,
    io::{self, Cursor},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, Response, header::CONNECTION};
use hyper::{
    body::{Body, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at the same time; more of them wait in the kernel's queue.
    pub connections: usize,
    /// For the TLS handshake, and for the preface of HTTP/2.
    pub handshake: Duration,
    /// For the headers of a request, and for the pause between two requests of HTTP/1.1. Longer than clients keep an idle connection,
    /// so that it is they who close it: a request that has begun to meet a server's close is lost, for Go's client, which the API server
    /// uses, does not send a POST again.
    pub headers: Duration,
    /// How long, after the end was asked for, an HTTP/1.1 connection without a request is kept open for one that is on its way. Longer than
    /// a handshake, and shorter than `drain`.
    pub idle: Duration,
    /// How long running requests may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshake: Duration::from_secs(5),
            headers: Duration::from_secs(120), // the API server keeps it for 90
            idle: Duration::from_secs(8),
            drain: Duration::from_secs(20),
        }
    }
}

/// What the server counts.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Connections that were accepted.
    pub connections: Counter,
    /// Connections that ended before a TLS session stood: also what an unsuitable caBundle looks like from here.
    pub failed_handshakes: Counter,
}

impl Counters {
    /// Makes the counters known under `prefix` (without `_` at its end).
    pub fn register(&self, registry: &mut Registry, prefix: &str) {
        let registry = registry.sub_registry_with_prefix(prefix);
        registry.register("connections", "Connections accepted", self.connections.clone());
        registry.register(
            "tls_handshake_failures",
            "TLS handshakes that failed",
            self.failed_handshakes.clone(),
        );
    }
}

/// Serves `app` on `listener` until `cancel`; then lets running requests end within the drain period. Whoever keeps a connection
/// is told to take another one: by GOAWAY over HTTP/2, by `Connection: close` over HTTP/1.1, which can be told with an answer only.
/// Hence an HTTP/1.1 connection without a request stays open for a while: closing it would fail the request that is on its way.
pub async fn serve<S, B>(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    app: S,
    limits: Limits,
    counters: Counters,
    cancel: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let end = End { asked: cancel.clone(), http2: CancellationToken::new(), http1: CancellationToken::new() };
    let server = Arc::new(Server { acceptor: TlsAcceptor::from(config), app, limits, counters, end });
    let connections = TaskTracker::new();
    let begin = |(tcp, permit): (TcpStream, OwnedSemaphorePermit)| {
        server.counters.connections.inc();
        let server = server.clone();
        connections.spawn(async move {
            server.connection(tcp).await;
            drop(permit);
        });
    };
    while let Some(Some(accepted)) = cancel.run_until_cancelled(accept(&listener, &permits)).await {
        begin(accepted);
    }
    // Who stands in the kernel's queue by now takes us for open, and would meet a reset.
    let linger = Instant::now() + LINGER;
    while let Ok(Some(accepted)) = timeout_at(linger, accept(&listener, &permits)).await {
        begin(accepted);
    }
    drop(listener); // nobody new, while those who are here finish
    connections.close();
    let drained = Instant::now() + server.limits.drain;
    server.end.http2.cancel();
    let idle = timeout(server.limits.idle.min(server.limits.drain), connections.wait()).await;
    server.end.http1.cancel();
    if idle.is_err() && timeout_at(drained, connections.wait()).await.is_err() {
        tracing::warn!("connections were still busy at the end of the drain period");
    }
}

/// The stages of a server's end.
struct End {
    /// Answers over HTTP/1.1 are the last of their connection.
    asked: CancellationToken,
    /// Connections of HTTP/2 end with the requests that they have.
    http2: CancellationToken,
    /// So do those of HTTP/1.1.
    http1: CancellationToken,
}

/// How a connection failed.
type Ended = Box<dyn std::error::Error + Send + Sync>;

struct Server<S> {
    acceptor: TlsAcceptor,
    app: S,
    limits: Limits,
    counters: Counters,
    end: End,
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    async fn connection(&self, tcp: TcpStream) {
        // Admission is one small request and one small answer: nothing to gain by waiting for more.
        let _ = tcp.set_nodelay(true);
        let peer = tcp.peer_addr().ok();
        match self.handshake(tcp).await {
            Ok(tls) => {
                if let Err(error) = self.requests(tls).await {
                    tracing::debug!(?peer, %error, "connection ended");
                }
            }
            Err(error) => {
                self.counters.failed_handshakes.inc();
                tracing::debug!(?peer, %error, "TLS handshake failed");
            }
        }
    }

    /// Serves by the protocol that ALPN has settled.
    async fn requests(&self, mut tls: TlsStream<TcpStream>) -> Result<(), Ended> {
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return self.serve(tls, false).await;
        }
        // hyper would wait for it without a bound.
        let mut preface = [0; PREFACE];
        timeout(self.limits.handshake, tls.read_exact(&mut preface)).await??;
        let (read, write) = split(tls);
        self.serve(join(Cursor::new(preface).chain(read), write), true).await
    }

    async fn serve<C>(&self, connection: C, http2: bool) -> Result<(), Ended>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = self.protocol(http2);
        let (app, asked) = (self.app.clone(), self.end.asked.clone());
        let app = service_fn(move |request| {
            let (answer, asked) = (app.call(request), asked.clone());
            async move {
                let mut answer = answer.await?;
                if !http2 && asked.is_cancelled() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(connection), app));
        let end = if http2 { &self.end.http2 } else { &self.end.http1 };
        if let Some(ended) = end.run_until_cancelled(connection.as_mut()).await {
            return ended;
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    }

    async fn handshake(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        timeout(self.limits.handshake, self.acceptor.accept(tcp)).await.map_err(io::Error::from)?
    }

    fn protocol(&self, http2: bool) -> auto::Builder<TokioExecutor> {
        let builder = auto::Builder::new(TokioExecutor::new());
        let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.headers);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(STREAMS * WINDOW);
        builder
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => return Some((tcp, permit)),
            // Out of file descriptors, most likely: accepting again at once would only spin.
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Bytes with which each client of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Requests at the same time over one connection; Go's clients send a hundred before they know it, and take another connection for more.
const STREAMS: u32 = 128;
/// What a client may send of a request that nobody reads yet. A connection has room for that of all its requests, so that those that wait
/// keep back no other one.
const WINDOW: u32 = 16 * 1024;
/// How long connections are still accepted after the end was asked for.
const LINGER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
