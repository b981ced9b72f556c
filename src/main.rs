//! The `idtoken-operator` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    idtoken_operator::cli::run()
}
