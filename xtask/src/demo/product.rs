//! Builds the program that the demo shows.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::progress::Step;

/// Builds the operator as cargo would, and tells where the program is.
pub(super) fn build() -> anyhow::Result<PathBuf> {
    let step = Step::start("building idtoken-operator", "minutes the first time, seconds afterwards");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "--package", NAME, "--bin", NAME])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
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
