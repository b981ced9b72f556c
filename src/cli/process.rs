//! What every long-running subcommand does first: logs, health, metrics, the Kubernetes client.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use kube::{Client, Config, client::retry::RetryPolicy};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, retry::Retry, service_fn};

use crate::telemetry::{
    health::{Condition, Health},
    logs,
    metrics::Metrics,
    serve, shutdown,
};

/// Logging, health and metrics.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Telemetry")]
pub(super) struct TelemetryArgs {
    /// Address of /startupz, /healthz and /readyz
    #[arg(long, env = "IDTOKEN_OPERATOR_HEALTH_ADDR", default_value = "0.0.0.0:8081")]
    health_addr: SocketAddr,
    /// Address of /metrics; may be that of the health checks
    #[arg(long, env = "IDTOKEN_OPERATOR_METRICS_ADDR", default_value = "0.0.0.0:8080")]
    metrics_addr: SocketAddr,
    /// Form of the log lines on standard error
    #[arg(long, env = "IDTOKEN_OPERATOR_LOG_FORMAT", value_enum, default_value_t)]
    log_format: logs::Format,
    /// error, warn, info, debug or trace, or a filter such as info,idtoken_operator=debug
    #[arg(long, env = "IDTOKEN_OPERATOR_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

/// What a long-running subcommand starts with.
pub(super) struct Started {
    /// Tries again what the API server was too busy for, out of sight.
    pub client: Client,
    /// Does not, over the same connections: for a caller who wants to know of each answer.
    pub once: Client,
    pub health: Health,
}

/// Starts logging, health and metrics, and connects to the cluster. The process is ready when all of `awaited` are met.
pub(super) async fn start(
    args: &TelemetryArgs,
    metrics: Metrics,
    awaited: &[Condition],
    stop: &CancellationToken,
) -> anyhow::Result<Started> {
    logs::init(args.log_format, &args.log_level)?;
    let health = Health::awaiting(awaited, stop.clone());
    serve::serve(args.health_addr, args.metrics_addr, health.clone(), metrics).await?;
    let once = client().await?;
    Ok(Started { client: patient(&once), once, health })
}

/// Runs `work`, after TLS has been given its one provider. The first signal cancels what `work` is given, the second one ends it
/// wherever it is.
///
/// All on this one thread: each piece of work is small, and threads that wake each other for it cost more than a second one brings; nor
/// does memory grow with the node's processors.
pub(super) fn block_on<F>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let signals = shutdown::on_signals().context("signals can't be listened for")?;
        tokio::select! {
            ended = work(signals.stop) => ended,
            () = signals.now.cancelled() => anyhow::bail!("ended at once by a second signal"),
        }
    });
    // What is left has nothing to finish.
    runtime.shutdown_background();
    ended
}

/// In a cluster its ServiceAccount, outside the kubeconfig, as kubectl does. It tries nothing again.
pub(super) async fn client() -> anyhow::Result<Client> {
    let mut config = if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().context("the ServiceAccount of this pod can't be used")?
    } else {
        Config::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .context("no cluster: set KUBECONFIG, or run in a pod")?
    };
    config.default_retry = false;
    // Else a list whose answer never comes would be waited for without end.
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).context("the Kubernetes client can't be made")
}

/// A client over the connections of `client` that tries again what the API server was too busy for (429, 503, 504). Another one with
/// connections of its own would have a hundred more of them when much is written, at some 60 kB each.
fn patient(client: &Client) -> Client {
    let once = client.clone();
    let send = service_fn(move |request| {
        let once = once.clone();
        async move { once.send(request).await.map_err(BoxError::from) }
    });
    Client::new(Retry::new(RetryPolicy::server_retry(), send), client.default_namespace())
}

/// Nothing is heard of the API server for so long: a little more than the longest that a watch lasts by itself.
const SILENCE: Duration = Duration::from_secs(295);

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    /// A client of an API server that is too busy for the first two requests; and how many have come.
    fn busy() -> (Client, Arc<AtomicUsize>) {
        let (came, counted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let seen = counted.clone();
        let service = service_fn(move |request: Request<Body>| {
            seen.fetch_add(1, Ordering::Relaxed);
            let status = if came.fetch_add(1, Ordering::Relaxed) < 2 { 429 } else { 200 };
            let answer = Response::builder().status(status).body(request.into_body());
            async move { Ok::<_, Infallible>(answer.unwrap()) }
        });
        (Client::new(service, "shop"), counted)
    }

    fn request() -> Request<Body> {
        Request::get("/version").body(Body::from(b"asked".to_vec())).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_patient_tries_again_over_the_same_client() {
        let (once, came) = busy();
        let client = patient(&once);
        let answer = client.send(request()).await.unwrap();
        assert_eq!((answer.status().as_u16(), came.load(Ordering::Relaxed)), (200, 3));
        assert_eq!(&*answer.into_body().collect_bytes().await.unwrap(), b"asked");
        assert_eq!(client.default_namespace(), "shop");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_once_is_told_of_the_refusal() {
        let (once, came) = busy();
        assert_eq!(once.send(request()).await.unwrap().status().as_u16(), 429);
        assert_eq!(came.load(Ordering::Relaxed), 1);
    }
}
