//! Objects against the real schemas, by kubeconform.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Schemas;
use super::schemas::UNKNOWN;

/// Fails where an object is not as its schema has it; an unknown field is as wrong as a missing one.
pub fn conform(kubeconform: &Path, schemas: &Schemas, objects: &[Value]) -> anyhow::Result<()> {
    let location = schemas.directory().join(NAMES);
    let skipped = UNKNOWN.map(|(api_version, kind)| format!("{api_version}/{kind}")).join(",");
    let mut child = Command::new(kubeconform)
        .args(["-strict", "-summary", "-output", "json", "-skip", &skipped, "-schema-location"])
        .arg(location)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run kubeconform")?;
    let mut input = child.stdin.take().context("no standard input")?;
    objects.iter().try_for_each(|object| writeln!(input, "---\n{object}"))?;
    drop(input);
    let output = child.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("kubeconform: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    let wrong: Vec<String> = report["resources"].as_array().into_iter().flatten().map(message).collect();
    ensure!(output.status.success() && wrong.is_empty(), "{}", wrong.join("\n"));
    let seen =
        ["valid", "skipped"].map(|key| report["summary"][key].as_u64().unwrap_or(0)).iter().sum::<u64>();
    ensure!(json!(seen) == json!(objects.len()), "kubeconform saw {seen} of {} objects", objects.len());
    Ok(())
}

fn message(resource: &Value) -> String {
    let text = |key: &str| resource[key].as_str().unwrap_or_default();
    format!("{} {}: {}", text("kind"), text("name"), text("msg"))
}

const NAMES: &str = "{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json";
