//! What every long-running subcommand does first: logs, health, metrics, the Kubernetes client.

use std::{future::Future, net::SocketAddr};

use anyhow::Context as _;
use kube::{Client, Config};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::{health, logs, metrics::Metrics, shutdown};

/// Logging, health and metrics.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Telemetry")]
pub(super) struct TelemetryArgs {
    /// Address of /healthz and /readyz
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
    pub ready: watch::Sender<bool>,
    pub stop: CancellationToken,
}

/// Starts logging, signals, health and metrics, and connects to the cluster.
pub(super) async fn start(args: &TelemetryArgs, metrics: Metrics) -> anyhow::Result<Started> {
    logs::init(args.log_format, &args.log_level)?;
    let stop = shutdown::on_signal()?;
    let (ready, is_ready) = watch::channel(false);
    health::serve(args.health_addr, args.metrics_addr, is_ready, metrics, stop.clone()).await?;
    Ok(Started { client: client().await?, ready, stop })
}

/// Runs `work` on the runtime, after TLS has been given its one provider.
pub(super) fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// In a cluster its ServiceAccount, outside the kubeconfig, as kubectl does.
async fn client() -> anyhow::Result<Client> {
    let config = if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().context("the ServiceAccount of this pod can't be used")?
    } else {
        Config::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .context("no cluster: set KUBECONFIG, or run in a pod")?
    };
    Client::try_from(config).context("the Kubernetes client can't be made")
}
