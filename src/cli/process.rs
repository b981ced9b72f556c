//! What every long-running subcommand does first: logs, health, metrics, the Kubernetes client.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use kube::{Client, Config};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

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
    pub client: Client,
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
    Ok(Started { client: client(Retries::Kube).await?, health })
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

/// Who tries a call again that the API server was too busy for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retries {
    /// The client, out of sight.
    Kube,
    /// The caller, who wants to know of each answer.
    Ours,
}

/// In a cluster its ServiceAccount, outside the kubeconfig, as kubectl does.
pub(super) async fn client(retries: Retries) -> anyhow::Result<Client> {
    let mut config = if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().context("the ServiceAccount of this pod can't be used")?
    } else {
        Config::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .context("no cluster: set KUBECONFIG, or run in a pod")?
    };
    config.default_retry = retries == Retries::Kube;
    // Else a list whose answer never comes would be waited for without end.
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).context("the Kubernetes client can't be made")
}

/// Nothing is heard of the API server for so long: a little more than the longest that a watch lasts by itself.
const SILENCE: Duration = Duration::from_secs(295);
