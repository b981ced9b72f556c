//! The accept loop: TLS, HTTP/2 and HTTP/1.1, with a bound on everything that a client could drag out.
use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::Service,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown, graceful::Watcher},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at the same time; more of them wait in the kernel's queue.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the headers of a request, and for the pause between two requests of HTTP/1.1.
    pub headers: Duration,
    /// How long running requests may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshake: Duration::from_secs(5),
            headers: Duration::from_secs(30),
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
/// is told to take another one: by GOAWAY over HTTP/2, by `Connection: close` over HTTP/1.1.
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
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let server = Arc::new(Server { acceptor: TlsAcceptor::from(config), app, limits, counters });
    let begin = |(tcp, permit): (TcpStream, OwnedSemaphorePermit)| {
        server.counters.connections.inc();
        let (server, watcher) = (server.clone(), graceful.watcher());
        tokio::spawn(async move {
            server.connection(tcp, watcher).await;
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
    if timeout(server.limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy at the end of the drain period");
    }
}

struct Server<S> {
    acceptor: TlsAcceptor,
    app: S,
    limits: Limits,
    counters: Counters,
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    async fn connection(&self, tcp: TcpStream, watcher: Watcher) {
        // Admission is one small request and one small answer: nothing to gain by waiting for more.
        let _ = tcp.set_nodelay(true);
        let peer = tcp.peer_addr().ok();
        match self.handshake(tcp).await {
            Ok(tls) => {
                let builder = self.protocol(&tls);
                let connection = builder.serve_connection(TokioIo::new(tls), self.app.clone()).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(?peer, %error, "connection ended");
                }
            }
            Err(error) => {
                self.counters.failed_handshakes.inc();
                tracing::debug!(?peer, %error, "TLS handshake failed");
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        timeout(self.limits.handshake, self.acceptor.accept(tcp)).await.map_err(io::Error::from)?
    }

    /// By what ALPN has settled, instead of waiting for the client's first bytes without a bound.
    fn protocol(&self, tls: &TlsStream<TcpStream>) -> auto::Builder<TokioExecutor> {
        let builder = auto::Builder::new(TokioExecutor::new());
        let mut builder = if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            builder.http2_only()
        } else {
            builder.http1_only()
        };
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

/// Requests at the same time over one connection; Go's clients send a hundred before they know it, and take another connection for more.
const STREAMS: u32 = 128;
/// What a client may send of a request that nobody reads yet. A connection has room for that of all its requests, so that those that wait
/// keep back no other one.
const WINDOW: u32 = 16 * 1024;
/// How long connections are still accepted after the end was asked for.
const LINGER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
