//! What must hold of the sources besides the tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;

use super::report::Report;
use crate::fuzz;
use crate::progress::Step;
use crate::tools::{Tools, cache_directory};
use crate::workspace::{self, cargo};

/// Formatting, lints, documentation and dependencies.
pub(super) fn run(report: &mut Report, install: bool) {
    check(report, "rustfmt", &["fmt", "--all", "--check"], &[]);
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    check(report, "clippy", &clippy, &[]);
    let doc = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
    check(report, "rustdoc", &doc, &[("RUSTDOCFLAGS", "-D warnings")]);
    match cargo_deny(install) {
        Ok(Some(program)) => {
            let mut command = Command::new(program);
            command.args(["deny", "--workspace", "check", "bans", "licenses", "sources"]);
            command.current_dir(workspace::root());
            checked(report, "cargo-deny", command);
        }
        Ok(None) => report.check_left_out(
            "cargo-deny",
            "it is not installed (cargo install --locked cargo-deny, or --require-all, which installs it into the cache)",
        ),
        Err(error) => report.check("cargo-deny", Err(error), Duration::ZERO),
    }
}

/// Every fuzz target, for a short while.
pub(super) fn fuzz(report: &mut Report, install: bool) {
    if !install && !fuzz::has_compiler() {
        let why = "there is no C++ compiler for libFuzzer (apt-get install g++, or --require-all, which installs it)";
        return report.check_left_out("fuzz", why);
    }
    let started = Instant::now();
    let result = fuzz::ensure_compiler().and_then(|()| fuzz::all(FUZZ));
    report.check("fuzz", result, started.elapsed());
}

/// Simulated days: many where all is required.
pub(super) fn simulation(report: &mut Report, all: bool) {
    let started = Instant::now();
    let result = crate::simulate::days(if all { 200 } else { 20 });
    report.check("simulation", result, started.elapsed());
}

/// What must hold of the chart; needs Helm, and so is no part of [`run`].
pub(super) fn chart(report: &mut Report) {
    let started = Instant::now();
    match Tools::find(&crate::chart::TOOLS) {
        Ok(_) => {
            let result = crate::chart::check();
            report.check("chart", result, started.elapsed());
        }
        Err(error) => report.check_left_out("chart", &format!("{error:#}")),
    }
}

fn check(report: &mut Report, name: &str, arguments: &[&str], environment: &[(&str, &str)]) {
    let mut command = cargo();
    command.args(arguments).envs(environment.iter().copied());
    checked(report, name, command);
}

fn checked(report: &mut Report, name: &str, mut command: Command) {
    let step = Step::start(name, "");
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {name}"));
    let result = status.and_then(|status| {
        ensure!(status.success(), "it found something ({status}; see above)");
        Ok(())
    });
    if result.is_ok() {
        step.done();
    }
    report.check(name, result, started.elapsed());
}

/// cargo-deny: the user's, else ours in the cache, else installed if that is wanted.
fn cargo_deny(install: bool) -> anyhow::Result<Option<PathBuf>> {
    if is_runnable("cargo-deny") {
        return Ok(Some("cargo-deny".into()));
    }
    let root = cache_directory()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if program.exists() {
        return Ok(Some(program));
    }
    if !install {
        return Ok(None);
    }
    let step = Step::start(format!("installing cargo-deny {CARGO_DENY}"), "5 minutes the first time");
    let status = cargo()
        // Unoptimised: it takes a second more to run, and minutes less to build.
        .args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--quiet", "--debug", "--root"])
        .arg(&root)
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo install cargo-deny failed ({status})");
    step.done();
    Ok(Some(program))
}

fn is_runnable(program: &str) -> bool {
    let silent = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent.is_ok_and(|status| status.success())
}

/// For each target: longer ones are for whoever looks for something.
const FUZZ: Duration = Duration::from_secs(20);

const CARGO_DENY: &str = "0.20.2";
