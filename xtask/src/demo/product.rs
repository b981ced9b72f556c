//! Builds the program that the demo shows.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::progress::Step;
use crate::workspace;

/// Builds the operator with cargo, and tells where the program is.
///
/// With the whole workspace selected, so that it shares the builds of its dependencies with `cargo test --workspace`.
pub fn build() -> anyhow::Result<PathBuf> {
    let step = Step::start("building idtoken-operator", "minutes the first time, seconds afterwards");
    let output = workspace::cargo()
        .args(["build", "--locked", "--quiet", "--workspace", "--bin", NAME])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "building idtoken-operator failed: {}", output.status);
    let program = executable(&String::from_utf8_lossy(&output.stdout))
        .context("cargo built idtoken-operator, but did not say where the program is")?;
    step.done();
    Ok(program)
}

/// The program that cargo's messages, one JSON document a line, name last.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == NAME)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

const NAME: &str = "idtoken-operator";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_where_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"idtoken_operator"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"idtoken-operator"},"executable":"/target/debug/idtoken-operator"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/target/debug/idtoken-operator".into()));
        assert_eq!(executable("{}"), None);
    }
}
