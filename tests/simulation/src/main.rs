//! `cargo xtask simulate`: bad days in virtual time.

use std::process::ExitCode;

use clap::Parser as _;
use simulation::{options::Options, report::Report, seeds};

fn main() -> ExitCode {
    let options = Options::parse();
    match simulate(&options) {
        Ok(kept) => ExitCode::from(u8::from(!kept)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all rules were kept.
fn simulate(options: &Options) -> anyhow::Result<bool> {
    let reports = seeds::all(options.plans().collect())?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else if let [report] = reports.as_slice() {
        report.faults.iter().for_each(|fault| println!("  {fault}"));
        print!("{report}");
    } else {
        println!("{}", summary(&reports));
    }
    Ok(reports.iter().all(Report::is_kept))
}

fn summary(reports: &[Report]) -> String {
    let broken: Vec<String> =
        reports.iter().filter(|report| !report.is_kept()).map(|report| report.seed.to_string()).collect();
    let seeds = reports.len();
    if broken.is_empty() {
        format!("{seeds} seeds: all rules kept")
    } else {
        format!("{seeds} seeds: {} broke a rule: {}", broken.len(), broken.join(", "))
    }
}
