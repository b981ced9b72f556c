//! The Helm chart: what is made from its `values.yaml`, what it renders, and what must hold of it.
//!
//! ```text
//! values.yaml ─ values ─┬─ schema ─▶ values.schema.json ┐
//!                       ├─ readme ─▶ README.md (tables) ├─ drift (written, or compared)
//! values-*.yaml, ci/ ───┴─ golden ─▶ tests/golden/chart ┘
//!                                        └─ conform (kubeconform, the real schemas), score (kube-score)
//! ```

mod checks;
mod conform;
mod drift;
mod golden;
mod lint;
mod readme;
mod render;
mod schema;
mod schemas;
mod values;

pub use conform::conform;
pub use golden::{Case, cases};
pub use render::{objects, template};
pub use schemas::{Schemas, cert_manager_crds, foreign_crds};

use std::path::PathBuf;

use clap::Args;

use crate::tools::Tool;
use crate::workspace;

/// The name of the chart, and of the release that is rendered.
pub const CHART: &str = "idtoken-operator";
/// The namespace of the release that is rendered.
pub const NAMESPACE: &str = "idtoken-system";
/// The programs that the checks of the chart need.
pub const TOOLS: [Tool; 4] = [Tool::Helm, Tool::HelmUnittest, Tool::Kubeconform, Tool::KubeScore];

/// Write what is made from the chart's values.yaml, or check the chart
#[derive(Debug, Args)]
#[command(
    after_help = "Without --check it writes values.schema.json, the tables of values in the chart's README.md, and
tests/golden/chart (what the chart renders with each values-*.yaml and ci/*-values.yaml)."
)]
pub struct ChartArgs {
    /// Write nothing: fail where something is not as it would be written, and run every other check (lint, unit tests,
    /// schemas of Kubernetes, kube-score)
    #[arg(long)]
    check: bool,
}

/// Runs `cargo xtask chart`.
pub async fn run(args: ChartArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || if args.check { checks::run() } else { drift::write() }).await?
}

/// Everything that must hold of the chart: what `cargo xtask chart --check` does.
pub fn check() -> anyhow::Result<()> {
    checks::run()
}

/// The directory of the chart.
#[must_use]
pub fn directory() -> PathBuf {
    workspace::root().join("charts").join(CHART)
}
