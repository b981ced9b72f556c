//! `cargo xtask bench`: how fast and how lean the product is, measured beside what it can't be faster than.
//!
//! ```text
//! build ─ subject (API server, bindings, webhook) ─┐
//!         floor   (the least that could answer)   ─┴─ admission (rounds) ─ load (clients) ─ report (figures, targets)
//! ```

mod admission;
mod build;
mod controller;
mod figures;
mod floor;
mod load;
mod population;
mod report;
mod subject;
mod template;
pub mod usage;

use clap::{Args, Subcommand};

/// Measure how fast and how lean the product is
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Admission(admission::AdmissionArgs),
    Controller(controller::ControllerArgs),
    #[command(hide = true)]
    Floor(floor::FloorArgs),
}

/// Runs `cargo xtask bench`.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.what {
        What::Admission(args) => admission::run(args).await,
        What::Controller(args) => Box::pin(controller::run(args)).await,
        What::Floor(args) => floor::run(args).await,
    }
}
