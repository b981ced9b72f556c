//! `cargo xtask bench controller`.
//!
//! ```text
//! survey (ways to write) ─┐
//! stage (API server, chart, bindings, Google) ─┬─ the floor (a loop) ─┬─ run (rounds, phases) ─ report ─ targets
//!                                              └─ operator, observer ─┘
//! ```

mod fleet;
mod observer;
mod operator;
mod phase;
mod report;
mod requests;
mod run;
mod stage;
mod survey;
mod targets;
mod writes;

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::Args;

use super::build;
use crate::tools::{Tool, Tools};
use fleet::Fleet;
use report::{Report, Size};
use run::Plan;
use targets::targets;

/// Measure the controller: from its start to all bindings ready, a refresh, a restart and rest, beside a loop that only writes
///
/// A real API server with the chart's CRDs, rights and policies, and a simulator of Google's APIs; ten bindings each need the same
/// token. The controller runs as the chart runs it, with leader election, as a process of its own. The floor is a loop that writes one
/// Secret and one status for each binding, like the controller's own, in the way that this API server answers fastest. Each has a
/// fresh API server each time, and they take turns. What was written and minted is what the API server and Google have counted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask bench controller --bindings 2000                     the table, after some minutes
  cargo xtask bench controller --bindings 1000,2000,10000,20000    all sizes that have targets, and growth; an hour
  cargo xtask bench controller --json > report.json                for programs; progress goes to standard error
  cargo xtask bench controller --assert                            fail where a target is missed; on a quiet machine only
  cargo xtask bench controller --quick --bindings 20               does it work at all? The figures mean nothing
  cargo xtask bench controller --program ./profiled.sh             a script that runs idtoken-operator under perf, say

What the figures mean is in docs/performance.md. All programs share this machine's processors: compare the figures of one run
with each other, and those of two runs only by their ratios to the floor.")]
pub(super) struct ControllerArgs {
    /// How many bindings; several sizes one after another, separated by commas
    #[arg(long, value_name = "NUMBERS", default_value = "2000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=90_000))]
    bindings: Vec<u32>,
    /// Starts of each size, in turns with the floor; what follows a start is measured after the last one
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long to watch the controller at rest, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    steady: u64,
    /// Life of the first tokens, in seconds: a refresh comes at 55 to 60 percent of it, and all must be ready before. Default: 20 s
    /// and 25 ms for each binding
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=3600))]
    token_lifetime: Option<u64>,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Fail where a target is missed
    #[arg(long)]
    assert: bool,
    /// A smoke test: development builds, one round, the ways to write hardly compared, rest of a second
    #[arg(long)]
    quick: bool,
    /// Measure this idtoken-operator instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(mut args: ControllerArgs) -> anyhow::Result<()> {
    if args.quick {
        (args.rounds, args.steady) = (1, 1);
    }
    let program = build::product(args.program.as_deref(), args.quick).await?;
    let report = measure(&args, program).await?;
    super::report::tell(&report, args.json, args.assert)
}

async fn measure(args: &ControllerArgs, program: PathBuf) -> anyhow::Result<Report> {
    let needed = [Tool::KubeApiserver, Tool::Etcd, Tool::Helm];
    let tools = tokio::task::spawn_blocking(move || Tools::find(&needed)).await??;
    let helm = tools.path(Tool::Helm);
    let extent = if args.quick { survey::QUICK } else { survey::THOROUGH };
    let survey = survey::survey(helm, &program, extent).await?;
    let plan = Plan {
        helm,
        program: &program,
        survey: &survey,
        rounds: args.rounds,
        steady: Duration::from_secs(args.steady),
        lifetime: args.token_lifetime.map(Duration::from_secs),
    };
    let mut sizes = Vec::new();
    for bindings in &args.bindings {
        sizes.push(Size::of(plan.measure(Fleet(*bindings)).await?));
    }
    Ok(Report {
        processors: available_parallelism().map_or(1, usize::from),
        optimized: !args.quick,
        rounds: args.rounds,
        targets: targets(&sizes),
        sizes,
        floor: survey.best,
        writes: survey.rates,
    })
}
