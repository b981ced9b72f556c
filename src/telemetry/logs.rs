//! Structured logs on standard error.

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` is a level (`info`) or tracing's filter syntax (`info,idtoken_operator=debug`).
pub fn init(format: Format, level: &str) -> anyhow::Result<()> {
    // The Kubernetes client logs whole response bodies when it can't read them; a Secret must never be among them.
    let filter = EnvFilter::try_new(format!("{level},kube_client::client=error,hyper_util=warn,rustls=warn"))
        .map_err(|e| {
            anyhow::anyhow!(
                "--log-level {level:?} is not valid: {e}; write error, warn, info, debug or trace"
            )
        })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|e| anyhow::anyhow!("logging can't be started: {e}"))
}
