//! `/healthz`, `/readyz` and `/metrics`, over plain HTTP for the kubelet and for Prometheus.

use std::net::SocketAddr;

use axum::{
    Router,
    http::{StatusCode, header},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::metrics::{CONTENT_TYPE, Metrics};

/// Whether the process can do its work. Starts as false; one sender sets it.
pub type Ready = watch::Receiver<bool>;

/// Serves health on `health` and metrics on `metrics_addr` until `stop`; where both are one address, both are there.
/// Returns when the listeners are bound.
pub async fn serve(
    health: SocketAddr,
    metrics_addr: SocketAddr,
    ready: Ready,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if health == metrics_addr {
        return listen(health, health_routes(ready).merge(metrics_routes(metrics)), stop).await;
    }
    listen(health, health_routes(ready), stop.clone()).await?;
    listen(metrics_addr, metrics_routes(metrics), stop).await
}

fn health_routes(ready: Ready) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || {
            let answer = if *ready.borrow() {
                (StatusCode::OK, "ok\n")
            } else {
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not ready: caches are not filled yet, or the process is ending\n",
                )
            };
            std::future::ready(answer)
        }),
    )
}

fn metrics_routes(metrics: Metrics) -> Router {
    Router::new().route(
        "/metrics",
        get(move || {
            let text = metrics.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR);
            std::future::ready(text.map(|text| ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)))
        }),
    )
}

async fn listen(addr: SocketAddr, routes: Router, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr).await.map_err(|e| {
        anyhow::anyhow!(
            "address {addr} can't be listened on: {e}; choose another with --health-addr or --metrics-addr"
        )
    })?;
    tokio::spawn(async move {
        let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%addr, %error, "the health and metrics server ended");
        }
    });
    Ok(())
}
