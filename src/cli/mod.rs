//! The command line: one file per subcommand. Every flag of what runs for long has an environment variable,
//! `IDTOKEN_OPERATOR_…`, or the one that Google's own tools read.

mod check;
mod controller;
mod crd;
mod endpoints;
mod identity;
mod namespaces;
mod process;
mod selector;
pub mod token;
mod webhook;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps Kubernetes Secrets filled with fresh, verified, audience-scoped Google ID tokens, and mounts them into pods
#[derive(Debug, Parser)]
#[command(name = "idtoken-operator", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // one in a process
enum Command {
    Controller(controller::Args),
    Webhook(webhook::Args),
    Crd(crd::Args),
    Check(check::Args),
    Token(token::Args),
}

/// Parses the command line and runs what it names. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && error.to_string().contains(JWT_BEGINS) => {
            eprintln!("error: a token stands on the command line; give it on standard input");
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Controller(args) => process::block_on(|stop| controller::run(args, stop)),
        Command::Webhook(args) => process::block_on(|stop| webhook::run(args, stop)),
        Command::Crd(args) => crd::run(&args),
        Command::Check(args) => process::block_on(|stop| check::run(args, stop)),
        Command::Token(args) => token::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<WrongUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// What a flag says can't be meant: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// The base64 of `{"`. clap's errors quote the argument that they do not know.
const JWT_BEGINS: &str = "eyJ";

const EXAMPLES: &str = "Examples:
  idtoken-operator crd | kubectl apply --server-side -f -
  idtoken-operator controller --log-format json
  idtoken-operator webhook --operator-namespace idtoken-system
  idtoken-operator check --namespace shop
  idtoken-operator token mint -f binding.yaml
  idtoken-operator token inspect --audience https://orders-abc-uc.a.run.app token.txt";
