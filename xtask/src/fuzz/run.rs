//! One run of one target.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{Target, seeds};
use crate::process::tail;
use crate::progress::Step;
use crate::workspace;

/// Runs `target` for `time`. The error names the input that broke a promise.
pub(super) fn run(target: Target, programs: &Path, directory: &Path, time: Duration) -> anyhow::Result<()> {
    let name = target.name();
    let step = Step::start(format!("fuzzing {name}"), &format!("{} s", time.as_secs()));
    let [corpus, seeds, artifacts] =
        ["corpus", "seeds", "artifacts"].map(|kind| directory.join(kind).join(name));
    for made in [&corpus, &seeds, &artifacts] {
        fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
    }
    seeds::write(target, &seeds)?;
    let (program, log) = (programs.join(name), directory.join(format!("{name}.log")));
    let status = Command::new(&program)
        .args([&corpus, &seeds])
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-dict={}", workspace::root().join("tests/fuzz/words.dict").display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=16384", "-print_final_stats=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let found = Found::parse(&said);
    if let Some(input) = found.input {
        bail!(
            "fuzzing {name} found an input that breaks a promise; to see it again: {} {input}\n{}",
            program.display(),
            tail(&said, 30)
        );
    }
    ensure!(status.success(), "fuzzing {name} failed ({status}):\n{}", tail(&said, 30));
    // A target without instrumentation would go on blindly, and pass.
    ensure!(
        found.runs > 0 && found.coverage > 0,
        "fuzzing {name} measured no coverage:\n{}",
        tail(&said, 30)
    );
    step.done();
    eprintln!("{name}: {} inputs, {} edges of the code reached", found.runs, found.coverage);
    Ok(())
}

/// What libFuzzer says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    runs: u64,
    coverage: u64,
    /// The file with an input that failed.
    input: Option<String>,
}

impl Found {
    fn parse(said: &str) -> Self {
        let mut found = Self::default();
        for line in said.lines() {
            let mut words = line.split_whitespace().skip_while(|word| *word != "cov:").skip(1);
            if let Some(coverage) = words.next().and_then(|word| word.parse().ok()) {
                found.coverage = coverage;
            }
            if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
                found.runs = runs.trim().parse().unwrap_or_default();
            }
            if let Some((_, path)) = line.split_once("Test unit written to ") {
                found.input = Some(path.trim().to_owned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_finding_tells_its_numbers() {
        let said = "INFO: Loaded 1 modules   (253403 inline 8-bit counters)\n\
                    #2\tINITED cov: 900 ft: 901 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                    #524288\tpulse  cov: 1523 ft: 7812 corp: 812/71Kb lim: 4096 exec/s: 17476 rss: 93Mb\n\
                    stat::number_of_executed_units: 612345\n";
        assert_eq!(Found::parse(said), Found { runs: 612_345, coverage: 1523, input: None });
    }

    #[test]
    fn a_finding_names_its_file() {
        let said = "thread '<unnamed>' panicked at src/lib.rs:1:1:\n==1== ERROR: libFuzzer: deadly signal\n\
                    artifact_prefix='/t/'; Test unit written to /t/crash-da39a3ee\nBase64: \n";
        assert_eq!(Found::parse(said).input.as_deref(), Some("/t/crash-da39a3ee"));
    }
}
