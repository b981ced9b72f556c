//! `cargo xtask test`: every test that the machine can run, and plainly what was left out.
//!
//! ```text
//! checks (fmt, clippy, doc, deny, fuzz; the chart) ─┐
//! binaries ─ declared ─ assign ───────────────┼─ execute ─▶ report
//! needs (tools, Python, Firebase) ────────────┘
//! ```
//!
//! # Guarantees
//! - No test is dropped silently: a test that is ignored must name its tier (`#[ignore = "tier api: why"]`), every
//!   ignored test is assigned to a tier, and as many tests must run as were listed. Anything else is a failure.
//! - The last line is `N passed, N failed`, and `, N skipped` where something was left out.

mod assign;
mod binaries;
mod checks;
mod declared;
mod execute;
mod needs;
mod report;

use anyhow::bail;
use clap::{Args, ValueEnum};
use tokio::time::Instant;

use assign::Suite;
use report::Report;

/// Run every test that this machine can run, and say what was left out
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask test                       everything; what can't run here is left out, and said
  cargo xtask test --tier unit           seconds, once it is built
  cargo xtask test --tier api,clients
  cargo xtask test --require-all         as continuous integration does: whatever is left out is a failure")]
pub struct TestArgs {
    /// Only these tiers; repeatable
    #[arg(long, value_enum, value_delimiter = ',')]
    tier: Vec<Tier>,
    /// Treat what had to be left out as a failure, and install what can be installed into the cache
    #[arg(long)]
    require_all: bool,
}

/// What a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tier {
    /// Nothing but cargo: unit tests, doc tests, rustfmt, clippy, rustdoc, cargo-deny, the fuzz targets for a while
    Unit,
    /// A real Kubernetes API server
    Api,
    /// Google's own Python library and Firebase emulator, and Envoy
    Clients,
    /// A real node with the operator installed by Helm (root on Debian or Ubuntu)
    Node,
}

impl Tier {
    /// All of them, in the order in which they run.
    const ALL: [Self; 4] = [Self::Unit, Self::Api, Self::Clients, Self::Node];

    /// As it stands in `#[ignore = "tier NAME: why"]`.
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Api => "api",
            Self::Clients => "clients",
            Self::Node => "node",
        }
    }

    /// The tier of an ignored test by its name; unit tests are not ignored.
    fn of_ignored(name: &str) -> Option<Self> {
        [Self::Api, Self::Clients, Self::Node].into_iter().find(|tier| tier.name() == name)
    }
}

/// Runs `cargo xtask test`.
pub async fn run(args: TestArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let report = tokio::task::spawn_blocking(move || test(&args)).await??;
    report.print(started.elapsed());
    if report.is_success() {
        return Ok(());
    }
    // The summary is the last line: the reasons stand above it already.
    std::process::exit(1)
}

fn test(args: &TestArgs) -> anyhow::Result<Report> {
    let tiers: Vec<Tier> =
        Tier::ALL.into_iter().filter(|tier| args.tier.is_empty() || args.tier.contains(tier)).collect();
    let mut report = Report::new(args.require_all);
    if tiers.contains(&Tier::Unit) {
        checks::run(&mut report, args.require_all);
        checks::fuzz(&mut report, args.require_all);
        checks::simulation(&mut report, args.require_all);
    }
    if tiers.contains(&Tier::Api) {
        checks::chart(&mut report);
    }
    let binaries = match binaries::build() {
        Ok(binaries) => binaries,
        Err(error) => {
            report.problem(format!("no test ran: {error:#}"));
            return Ok(report);
        }
    };
    if binaries.is_empty() {
        bail!("cargo built no test at all");
    }
    let declared = declared::scan(&binaries, &mut report)?;
    let suites = assign::assign(binaries, &declared, &mut report)?;
    for tier in tiers {
        run_tier(tier, &suites, &mut report);
    }
    Ok(report)
}

fn run_tier(tier: Tier, suites: &[Suite], report: &mut Report) {
    let expected: usize = suites.iter().map(|suite| suite.tests(tier).len()).sum();
    if expected == 0 {
        report.nothing_in(tier);
        return;
    }
    let provision = match needs::of(tier) {
        Ok(provision) => provision,
        Err(error) => {
            report.left_out(tier, expected, &format!("{error:#}"));
            return;
        }
    };
    for suite in suites.iter().filter(|suite| !suite.tests(tier).is_empty()) {
        execute::suite(suite, tier, &provision.environment, report);
    }
    if tier == Tier::Unit {
        execute::doc_tests(report);
    }
}
