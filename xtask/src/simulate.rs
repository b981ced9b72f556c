//! `cargo xtask simulate`: builds the simulation (`tests/simulation`) optimised and runs it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::progress::Step;
use crate::workspace;

/// Run the controller in virtual time through bad days; `cargo xtask simulate --help` tells all about it
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct SimulateArgs {
    /// What the simulation is told
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Runs `cargo xtask simulate`; ends as the simulation ends.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        build()?;
        let status = simulation(&args.options)?;
        std::process::exit(status.code().unwrap_or(1))
    })
    .await?
}

/// So many short days, each with faults of its own; and some of fleets that are larger than what the controller does at once, where it
/// matters who comes first.
pub fn days(count: u32) -> anyhow::Result<()> {
    build()?;
    for options in [
        format!("--seeds {count} --bindings 60 --hours 6"),
        format!("--seeds {} --bindings 2000 --hours 2", count.div_ceil(25)),
    ] {
        let status = simulation(&options.split(' ').map(OsString::from).collect::<Vec<_>>())?;
        ensure!(status.success(), "cargo xtask simulate {options} failed ({status}; see above)");
    }
    Ok(())
}

fn build() -> anyhow::Result<()> {
    let step = Step::start("building the simulation", "minutes the first time");
    let status = cargo("build").status().context("cannot run cargo")?;
    ensure!(status.success(), "building the simulation failed ({status})");
    step.done();
    Ok(())
}

fn simulation(options: &[OsString]) -> anyhow::Result<std::process::ExitStatus> {
    cargo("run").arg("--").args(options).status().context("cannot run cargo")
}

fn cargo(what: &str) -> Command {
    let mut command = workspace::cargo();
    command.args([what, "--locked", "--quiet", "--profile", "simulation", "--package", "simulation"]);
    command
}
