//! Runs tests and reads what they say.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::Tier;
use super::assign::Suite;
use super::needs::Environment;
use super::report::{Report, Tally};
use crate::workspace::cargo;

/// Runs the tests of one tier in one binary. As many must run as the binary has listed.
pub(super) fn suite(suite: &Suite, tier: Tier, environment: &Environment, report: &mut Report) {
    let tests = suite.tests(tier);
    println!("\n-- {}: {}, {} tests", tier.name(), suite.binary.name, tests.len());
    let mut command = suite.binary.command();
    if tier != Tier::Unit {
        // Clusters are heavy: as many at once as a small machine has processors.
        command.args(["--ignored", "--exact", "--test-threads=2"]).args(&tests);
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    ran(&suite.binary.name, tier, command, Some(tests.len()), report);
}

/// Runs the examples in the documentation.
pub(super) fn doc_tests(report: &mut Report) {
    println!("\n-- unit: examples in the documentation");
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--quiet", "--doc"]);
    ran("the examples in the documentation", Tier::Unit, command, None, report);
}

fn ran(name: &str, tier: Tier, command: Command, expected: Option<usize>, report: &mut Report) {
    let started = Instant::now();
    match run(command) {
        Err(error) => report.problem(format!("{name}: {error:#}")),
        Ok(outcome) => {
            let tally = Tally { time: started.elapsed(), ..outcome.tally };
            let count = tally.passed + tally.failed;
            let failures = outcome.failed.iter().map(|test| format!("{name}: {test}")).collect();
            report.ran(tier, tally, failures);
            if let Some(expected) = expected.filter(|expected| *expected != count) {
                report
                    .problem(format!("{name}: {expected} tests were to run and {count} told how they ended"));
            } else if !outcome.status.success() && tally.failed == 0 {
                report.problem(format!("{name}: no test failed, but it ended with {}", outcome.status));
            }
        }
    }
}

struct Outcome {
    tally: Tally,
    failed: Vec<String>,
    status: ExitStatus,
}

/// Runs a test program, shows what it prints, and sums its result lines up.
fn run(mut command: Command) -> anyhow::Result<Outcome> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot be run")?;
    let stdout = child.stdout.take().context("has no output")?;
    let reader = std::thread::spawn(move || {
        let (mut tally, mut failed) = (Tally::default(), Vec::new());
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            println!("{line}");
            if let Some((passed, failures)) = result(&line) {
                tally.passed += passed;
                tally.failed += failures;
            }
            failed.extend(failed_test(&line));
        }
        (tally, failed)
    });
    let status = wait(&mut child)?;
    let (tally, failed) = reader.join().ok().context("its output could not be read")?;
    Ok(Outcome { tally, failed, status })
}

fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("killed: it had not ended after {} minutes", LIMIT.as_secs() / 60);
        }
        std::thread::sleep(POLL);
    }
}

/// Passed and failed of a line `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result(line: &str) -> Option<(usize, usize)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| -> Option<usize> {
        counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some((count("passed")?, count("failed")?))
}

/// The name in a line `test a::b ... FAILED`.
fn failed_test(line: &str) -> Option<String> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(name.to_owned())
}

const LIMIT: Duration = Duration::from_secs(30 * 60);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.02s";
        assert_eq!(result(line), Some((12, 3)));
        assert_eq!(result("test result of mine ... ok"), None);
        assert_eq!(failed_test("test a::b ... FAILED").as_deref(), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
    }

    #[test]
    fn what_a_program_says_is_summed_up() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test x ... FAILED'; echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101",
        ]);
        let outcome = run(command).unwrap();
        assert_eq!((outcome.tally.passed, outcome.tally.failed), (1, 1));
        assert_eq!(outcome.failed, ["x"]);
        assert_eq!(outcome.status.code(), Some(101));
    }

    #[test]
    fn tests_that_never_told_their_end_are_a_failure() {
        for (script, expected) in [("exit 0", Some(2)), ("kill -9 $$", Some(0)), ("exit 3", None)] {
            let mut report = Report::new(false);
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            ran("crash", Tier::Unit, command, expected, &mut report);
            assert!(!report.is_success(), "{script}");
        }
    }
}
