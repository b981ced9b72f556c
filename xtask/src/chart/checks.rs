//! What must hold of the chart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::lint::lint;
use super::{Schemas, TOOLS, cases, conform, directory, drift, objects, template};
use crate::progress::Step;
use crate::tools::{Tool, Tools};

/// Runs all of them; the first that finds something ends it.
pub(super) fn run() -> anyhow::Result<()> {
    let tools = Tools::find(&TOOLS)?;
    let helm = tools.path(Tool::Helm);
    step("values and templates agree", values_and_templates)?;
    step("every template has a test", every_template_has_a_test)?;
    step("nothing drifted", || drift::check(helm))?;
    step("helm lint --strict", || program(helm, &["lint", "--strict"]))?;
    step("helm-unittest", || program(tools.path(Tool::HelmUnittest), &["--strict"]))?;
    step("kubeconform", || schemas(helm, tools.path(Tool::Kubeconform)))?;
    step("kube-score", || score(helm, tools.path(Tool::KubeScore)))
}

fn step(what: &str, check: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let step = Step::start(format!("chart: {what}"), "");
    check().with_context(|| format!("chart: {what}"))?;
    step.done();
    Ok(())
}

fn values_and_templates() -> anyhow::Result<()> {
    let wrong = lint(&drift::values()?, &text_below(&directory().join("templates"))?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A template without a unit test would be one that nobody misses.
fn every_template_has_a_test() -> anyhow::Result<()> {
    let (root, tests) = (directory().join("templates"), text_below(&directory().join("tests"))?);
    for file in files_below(&root)? {
        let name = file.strip_prefix(&root)?.display().to_string();
        ensure!(
            name.starts_with('_') || tests.contains(&name),
            "no suite in tests/ names the template {name}"
        );
    }
    Ok(())
}

fn text_below(directory: &Path) -> anyhow::Result<String> {
    files_below(directory)?.iter().map(|file| Ok(fs::read_to_string(file)?)).collect()
}

fn files_below(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        files.extend(if path.is_dir() { files_below(&path)? } else { vec![path] });
    }
    Ok(files)
}

/// A program that is given the chart and says by its exit code whether all is well.
fn program(program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).arg(directory()).stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Every object of every render, and the CRDs, against the schemas of the Kubernetes that is built here. What several renders
/// share is looked at once.
fn schemas(helm: &Path, kubeconform: &Path) -> anyhow::Result<()> {
    let mut all = objects(&template(helm, [""; 0])?)?;
    for case in cases()? {
        let new: Vec<_> =
            objects(&case.render(helm)?)?.into_iter().filter(|object| !all.contains(object)).collect();
        all.extend(new);
    }
    conform(kubeconform, &Schemas::of(&all)?, &all)
}

/// kube-score's own opinion of every render.
fn score(helm: &Path, kube_score: &Path) -> anyhow::Result<()> {
    for case in cases()?.into_iter().filter(|case| case.name != SINGLE) {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        fs::write(file.path(), case.render(helm)?)?;
        let output = Command::new(kube_score)
            .args([
                "score",
                "--kubernetes-version",
                "v1.36",
                "--output-format",
                "ci",
                "--ignore-container-cpu-limit",
            ])
            .args(FURTHER.iter().flat_map(|check| ["--enable-optional-test", *check]))
            .args(IGNORED.iter().flat_map(|(check, _)| ["--ignore-test", *check]))
            .arg(file.path())
            .stdin(Stdio::null())
            .output()
            .context("cannot run kube-score")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let wrong: Vec<&str> = printed
            .lines()
            .filter(|line| !line.starts_with("[OK]") && !line.starts_with("[SKIPPED]"))
            .collect();
        ensure!(output.status.success() && wrong.is_empty(), "{}:\n{}", case.name, wrong.join("\n"));
    }
    Ok(())
}

/// What kube-score looks for only when asked.
const FURTHER: [&str; 4] = [
    "container-memory-requests-equal-limits",
    "container-ephemeral-storage-request-equals-limit",
    "container-ports-check",
    "container-seccomp-profile",
];
/// The case of one replica each, which kube-score finds to be too few.
const SINGLE: &str = "single";
/// What kube-score would find and is meant to be so. (A CPU limit, which is ignored too, would slow down what is urgent: a mint, an
/// admission; memory and storage are limited.)
const IGNORED: [(&str, &str); 3] = [
    (
        "container-image-pull-policy",
        "IfNotPresent: tags of releases are never moved, and a node must start without the registry",
    ),
    (
        "pod-networkpolicy",
        "policies are the user's choice (networkPolicy.enabled): only they know their proxies and ranges",
    ),
    (
        "deployment-has-host-podantiaffinity",
        "spread by topologySpreadConstraints: a required anti-affinity costs 500m a pod on Autopilot",
    ),
];
