//! `cargo xtask`: the developer's commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The developer's commands of idtoken-operator
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(xtask::demo::DemoArgs),
    Fuzz(xtask::fuzz::FuzzArgs),
    Test(xtask::test::TestArgs),
    Bench(xtask::bench::BenchArgs),
    Chart(xtask::chart::ChartArgs),
    Cluster(xtask::cluster::command::ClusterArgs),
    Image(xtask::image::command::ImageArgs),
    Node(xtask::node::command::NodeArgs),
    Simulate(xtask::simulate::SimulateArgs),
    /// Write the CRDs that the types say into crds/ and into the chart
    Crd,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => xtask::demo::run(args).await,
        Command::Fuzz(args) => xtask::fuzz::run(args).await,
        Command::Test(args) => xtask::test::run(args).await,
        Command::Bench(args) => xtask::bench::run(args).await,
        Command::Image(args) => xtask::image::command::run(args).await,
        Command::Node(args) => xtask::node::command::run(args).await,
        Command::Simulate(args) => xtask::simulate::run(args).await,
        Command::Chart(args) => xtask::chart::run(args).await,
        Command::Crd => xtask::crd::run().await,
        Command::Cluster(args) => xtask::cluster::command::run(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
