//! `idtoken-operator token`: tokens without a cluster.

mod in_file;
mod inspect;
mod io;
pub mod jwt;
mod mint;
mod words;

/// Get a token, or look into one, without a cluster
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Mint(Box<mint::Args>),
    Inspect(inspect::Args),
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Mint(args) => mint::run(*args),
        Command::Inspect(args) => inspect::run(&args),
    }
}
