//! `cargo xtask fuzz`: inputs that a fuzzer makes, guided by coverage, for what reads bytes from outside.
//!
//! The engine is LLVM's libFuzzer. The instrumentation is that of cargo-fuzz without a sanitizer: LLVM's coverage pass, which a stable
//! compiler has too. (There is no unsafe code for a sanitizer to watch; what the targets assert is found without one.)

mod run;
mod seeds;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};

use crate::packages;
use crate::progress::Step;
use crate::workspace;

/// Feed what reads bytes from outside with inputs that a fuzzer makes; fail where one breaks a promise
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                       every target for a minute
  cargo xtask fuzz review --seconds 3600
Inputs that reach something new are kept in target/fuzz/corpus for the next run.")]
pub struct FuzzArgs {
    /// Only these targets
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// How long for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// What is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The body of a call of the webhook
    Review,
    /// The values of a pod's annotations
    Annotations,
    /// A token, to the verifier and to `token inspect`
    Token,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Review => "review",
            Self::Annotations => "annotations",
            Self::Token => "token",
        }
    }
}

/// Runs `cargo xtask fuzz`.
pub async fn run(args: FuzzArgs) -> anyhow::Result<()> {
    let targets = if args.targets.is_empty() { Target::value_variants().to_vec() } else { args.targets };
    tokio::task::spawn_blocking(move || {
        ensure_compiler()?;
        fuzz(&targets, Duration::from_secs(args.seconds))
    })
    .await?
}

/// Every target for `each`.
pub fn all(each: Duration) -> anyhow::Result<()> {
    fuzz(Target::value_variants(), each)
}

/// Whether there is a compiler for libFuzzer, which is written in C++.
#[must_use]
pub fn has_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let version =
        Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Installs one where there is none.
pub fn ensure_compiler() -> anyhow::Result<()> {
    if has_compiler() { Ok(()) } else { packages::ensure(&["g++"]) }
}

fn fuzz(targets: &[Target], each: Duration) -> anyhow::Result<()> {
    let directory = directory();
    let programs = build(&directory)?;
    // All of them, so that one bug does not hide another.
    let results = targets.iter().map(|target| run::run(*target, &programs, &directory, each));
    let failed: Vec<String> = results.filter_map(|result| Some(format!("{:#}", result.err()?))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Builds the targets. The result is the directory that they are in.
fn build(directory: &Path) -> anyhow::Result<PathBuf> {
    let step = Step::start("building the fuzz targets", "minutes the first time");
    let package = workspace::root().join("tests/fuzz");
    same_versions(&package)?;
    let host = host()?;
    let status = Command::new(cargo())
        .args(["build", "--release", "--quiet", "--bins", "--target", &host]) // named, so that build scripts are left alone
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(directory)
        .env("RUSTFLAGS", INSTRUMENTATION.join(" "))
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "building the fuzz targets failed ({status})");
    step.done();
    Ok(directory.join(host).join("release"))
}

/// Gives the package the workspace's own versions to start from, where those have changed.
fn same_versions(package: &Path) -> anyhow::Result<()> {
    let (ours, theirs) = (workspace::root().join("Cargo.lock"), package.join("Cargo.lock"));
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if changed(&theirs) < changed(&ours) {
        fs::copy(&ours, &theirs).context("cannot copy Cargo.lock")?;
    }
    Ok(())
}

fn host() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it runs on")?.to_owned())
}

/// Beside what else cargo builds: nothing of it is shared.
fn directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace::root().join("target"), PathBuf::from)
        .join("fuzz")
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

const INSTRUMENTATION: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg fuzzing",
];
