//! What came of it all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Tier;
use crate::progress::human;

/// Counts, and everything that has to be said at the end.
#[derive(Debug)]
pub(super) struct Report {
    require_all: bool,
    checks: Tally,
    tiers: BTreeMap<Tier, Tally>,
    empty: Vec<Tier>,
    left_out: Vec<String>,
    problems: Vec<String>,
}

/// The counts of one row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) left_out: usize,
    pub(super) time: Duration,
}

impl Report {
    pub(super) fn new(require_all: bool) -> Self {
        Self {
            require_all,
            checks: Tally::default(),
            tiers: BTreeMap::new(),
            empty: Vec::new(),
            left_out: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// A check that is no test: it passed, or it is a problem.
    pub(super) fn check(&mut self, name: &str, result: anyhow::Result<()>, time: Duration) {
        self.checks.time += time;
        match result {
            Ok(()) => self.checks.passed += 1,
            Err(error) => {
                self.checks.failed += 1;
                self.problems.push(format!("{name}: {error:#}"));
            }
        }
    }

    pub(super) fn check_left_out(&mut self, name: &str, why: &str) {
        self.checks.left_out += 1;
        self.left_out.push(format!("{name}: {why}"));
    }

    /// What a test binary said of itself, and which of its tests failed.
    pub(super) fn ran(&mut self, tier: Tier, tally: Tally, failed: Vec<String>) {
        let row = self.tiers.entry(tier).or_default();
        row.passed += tally.passed;
        row.failed += tally.failed;
        row.time += tally.time;
        self.problems.extend(failed);
    }

    pub(super) fn left_out(&mut self, tier: Tier, tests: usize, why: &str) {
        self.tiers.entry(tier).or_default().left_out += tests;
        self.left_out.push(format!("{}, {tests} tests: {why}", tier.name()));
    }

    pub(super) fn nothing_in(&mut self, tier: Tier) {
        self.empty.push(tier);
    }

    /// A failure that no test reports.
    pub(super) fn problem(&mut self, problem: String) {
        self.checks.failed += 1;
        self.problems.push(problem);
    }

    pub(super) fn is_success(&self) -> bool {
        self.problems.is_empty() && self.failed() == 0 && !(self.require_all && self.skipped() > 0)
    }

    pub(super) fn print(&self, took: Duration) {
        print!("\n{}", self.text(took));
    }

    fn text(&self, took: Duration) -> String {
        let mut lines = vec![row("", ["passed", "failed", "left out", "seconds"].map(str::to_owned))];
        let rows = self.tiers.iter().map(|(tier, tally)| (tier.name(), tally));
        for (name, tally) in std::iter::once(("checks", &self.checks)).chain(rows) {
            let counts = [tally.passed, tally.failed, tally.left_out].map(|count| count.to_string());
            let [passed, failed, left_out] = counts;
            lines.push(row(name, [passed, failed, left_out, tally.time.as_secs().to_string()]));
        }
        lines.push(format!("building and all: {}", human(took)));
        lines.extend(self.empty.iter().map(|tier| format!("{}: no tests in this version", tier.name())));
        let title = if self.require_all { "Left out, which --require-all forbids:" } else { "Left out:" };
        lines.extend(list(title, &self.left_out));
        lines.extend(list("Failed:", &self.problems));
        lines.push(String::new());
        lines.push(self.summary());
        lines.join("\n") + "\n"
    }

    /// Tests that passed; tests and everything else that failed.
    fn summary(&self) -> String {
        let passed: usize = self.tiers.values().map(|tally| tally.passed).sum();
        let (failed, skipped) = (self.failed(), self.skipped());
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }

    fn failed(&self) -> usize {
        self.checks.failed + self.tiers.values().map(|tally| tally.failed).sum::<usize>()
    }

    fn skipped(&self) -> usize {
        self.checks.left_out + self.tiers.values().map(|tally| tally.left_out).sum::<usize>()
    }
}

fn row(name: &str, [passed, failed, left_out, seconds]: [String; 4]) -> String {
    format!("{name:<8}{passed:>8}{failed:>8}{left_out:>10}{seconds:>9}")
}

fn list(title: &str, entries: &[String]) -> Vec<String> {
    if entries.is_empty() {
        return Vec::new();
    }
    let titled = [String::new(), title.to_owned()].into_iter();
    titled.chain(entries.iter().map(|entry| format!("  {entry}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(report: &mut Report, tier: Tier, passed: usize, failed: usize) {
        let failures = (0..failed).map(|_| "t: a test failed".to_owned()).collect();
        report.ran(
            tier,
            Tally { passed, failed, time: Duration::from_secs(2), ..Tally::default() },
            failures,
        );
    }

    #[test]
    fn a_good_run_reads_well() {
        let mut report = Report::new(true);
        report.check("rustfmt", Ok(()), Duration::from_secs(1));
        ran(&mut report, Tier::Unit, 5, 0);
        ran(&mut report, Tier::Unit, 2, 0);
        ran(&mut report, Tier::Api, 1, 0);
        report.nothing_in(Tier::Node);
        assert_eq!(
            report.text(Duration::from_secs(61)),
            "          passed  failed  left out  seconds\n\
             checks         1       0         0        1\n\
             unit           7       0         0        4\n\
             api            1       0         0        2\n\
             building and all: 1 min 1 s\n\
             node: no tests in this version\n\
             \n\
             8 passed, 0 failed\n"
        );
        assert!(report.is_success());
    }

    #[test]
    fn what_is_left_out_fails_only_where_everything_is_required() {
        for (require_all, success) in [(false, true), (true, false)] {
            let mut report = Report::new(require_all);
            ran(&mut report, Tier::Unit, 7, 0);
            report.left_out(Tier::Clients, 3, "there is no python3");
            let text = report.text(Duration::from_secs(61));
            assert!(text.contains("\n  clients, 3 tests: there is no python3\n"), "{text}");
            assert!(text.ends_with("\n\n7 passed, 0 failed, 3 skipped\n"), "{text}");
            assert_eq!(report.is_success(), success);
        }
    }

    #[test]
    fn every_kind_of_failure_counts() {
        let mut report = Report::new(false);
        ran(&mut report, Tier::Unit, 7, 2);
        report.check("clippy", Err(anyhow::anyhow!("exit status: 101")), Duration::ZERO);
        report.problem("src/x.rs:3: no tier".to_owned());
        assert!(
            report.text(Duration::from_secs(61)).ends_with("\n\n7 passed, 4 failed\n"),
            "{}",
            report.text(Duration::from_secs(61))
        );
        assert!(report.text(Duration::from_secs(61)).contains("\n  clippy: exit status: 101\n"));
        assert!(!report.is_success());
    }
}
