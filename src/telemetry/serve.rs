//! `/startupz`, `/healthz`, `/readyz` and `/metrics`, over plain HTTP for the kubelet and for Prometheus.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    health::Health,
    metrics::{CONTENT_TYPE, Metrics},
};

/// Serves health on `health_addr` and metrics on `metrics_addr` until the end of the process, so that it is seen how that
/// comes about; where both are one address, both are there. Returns when the listeners are bound.
pub async fn serve(
    health_addr: SocketAddr,
    metrics_addr: SocketAddr,
    health: Health,
    metrics: Metrics,
) -> anyhow::Result<()> {
    if health_addr == metrics_addr {
        return listen(health_addr, health_routes(health).merge(metrics_routes(metrics))).await;
    }
    listen(health_addr, health_routes(health)).await?;
    listen(metrics_addr, metrics_routes(metrics)).await
}

fn health_routes(health: Health) -> Router {
    let (started, alive, ready) = (health.clone(), health.clone(), health);
    Router::new()
        .route("/startupz", get(async move || answer(started.started())))
        .route("/healthz", get(async move || answer(alive.alive(Instant::now()))))
        .route("/readyz", get(async move || answer(ready.ready())))
}

fn answer(verdict: Result<(), String>) -> (StatusCode, String) {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn metrics_routes(metrics: Metrics) -> Router {
    let text = async move || {
        let text = metrics.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok::<_, StatusCode>(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
    };
    Router::new().route("/metrics", get(text))
}

async fn listen(addr: SocketAddr, routes: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr).await.map_err(|e| {
        anyhow::anyhow!(
            "address {addr} can't be listened on: {e}; choose another with --health-addr or --metrics-addr"
        )
    })?;
    tokio::spawn(accept(listener, routes, CONNECTIONS));
    Ok(())
}

/// At most `most` connections at once: the oldest makes room for a new one, so that nobody who only holds connections open
/// keeps the kubelet out.
async fn accept(listener: TcpListener, routes: Router, most: usize) {
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= most
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(tokio::spawn(connection(tcp, routes.clone())).abort_handle());
            }
            // Out of file descriptors, most likely: accepting again at once would only spin.
            Err(error) => {
                tracing::warn!(%error, "accepting a connection for health or metrics");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(tcp: TcpStream, routes: Router) {
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(tcp), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection for health or metrics ended");
    }
}

const CONNECTIONS: usize = 64;
/// For the headers of a request, and for the pause between two requests.
const HEADERS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::health::Condition;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

    async fn start(routes: Router, most: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, routes, most));
        addr
    }

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn each_probe_has_a_word_of_its_own() {
        let health = Health::awaiting(&[Condition::Registered], CancellationToken::new());
        let addr = start(health_routes(health.clone()), 8).await;
        assert!(get(addr, "/startupz").await.starts_with("HTTP/1.1 200"));
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        let text = get(addr, "/readyz").await;
        assert!(
            text.starts_with("HTTP/1.1 503")
                && text.ends_with("the MutatingWebhookConfiguration does not hold our caBundle yet\n"),
            "{text}"
        );
        health.met(Condition::Registered);
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        drop(health.vital("the accept loop", std::future::pending::<()>()));
        let text = get(addr, "/healthz").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.ends_with("the accept loop has ended\n"), "{text}");
    }

    #[tokio::test]
    async fn held_connections_keep_nobody_out() {
        let addr = start(Router::new().route("/", axum::routing::get(async || "ok")), 2).await;
        let mut held: Vec<TcpStream> = Vec::new();
        for _ in 0..5 {
            held.push(TcpStream::connect(addr).await.unwrap());
        }
        assert!(get(addr, "/").await.starts_with("HTTP/1.1 200"));
        assert_eq!(held[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest had to go");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connection_is_closed() {
        let addr = start(Router::new(), 2).await;
        let mut silent = TcpStream::connect(addr).await.unwrap();
        silent.write_all(b"GET / HT").await.unwrap();
        let begin = Instant::now();
        let mut answer = Vec::new();
        silent.read_to_end(&mut answer).await.unwrap();
        assert!((HEADERS..HEADERS * 2).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }
}
