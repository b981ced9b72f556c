//! The test binaries of the workspace, and the tests in them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::progress::Step;
use crate::workspace;

/// One test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binary {
    /// The package and the target, for people.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The root of the package: tests run there.
    pub(super) package: PathBuf,
    /// The file that the target is compiled from.
    pub(super) source: PathBuf,
}

/// Builds every test of the workspace.
pub(super) fn build() -> anyhow::Result<Vec<Binary>> {
    let step = Step::start("building the tests", "minutes the first time");
    let output = workspace::cargo()
        .args(["test", "--workspace", "--locked", "--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "building the tests failed ({})", output.status);
    step.done();
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

impl Binary {
    /// Every test, and those that are ignored.
    pub(super) fn list(&self) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        Ok((self.listed(&["--list"])?, self.listed(&["--list", "--ignored"])?))
    }

    /// The binary, to be run as cargo runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package).stdin(Stdio::null());
        command
    }

    fn listed(&self, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        let output = self.command().args(arguments).args(["--format", "terse"]).output();
        let output = output.with_context(|| format!("cannot run {}", self.path.display()))?;
        ensure!(output.status.success(), "{} can't list its tests: {}", self.name, output.status);
        Ok(names(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// The lines `NAME: test` of a test binary's list.
fn names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[derive(Deserialize)]
struct Message {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The test binaries among cargo's messages, one JSON document a line.
fn parse(messages: &str) -> Vec<Binary> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let mut binaries: Vec<Binary> = artifacts
        .filter(|message| message.profile.test)
        .filter_map(|message| {
            let package = message.manifest_path.parent()?.to_owned();
            let kind = message.target.kind.first().map_or("", String::as_str);
            let name = format!("{} ({kind})", message.target.name);
            Some(Binary { name, path: message.executable?, package, source: message.target.src_path })
        })
        .collect();
    // Cargo tells them as they are done, which is a different order each time.
    binaries.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    binaries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","target":{"kind":["lib"],"name":"a","src_path":"/w/src/lib.rs"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","target":{"kind":["test"],"name":"api_crd","src_path":"/w/tests/api_crd.rs"},"profile":{"test":true},"executable":"/t/api_crd-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            parse(messages),
            [Binary {
                name: "api_crd (test)".into(),
                path: "/t/api_crd-1".into(),
                package: "/w".into(),
                source: "/w/tests/api_crd.rs".into(),
            }]
        );
    }

    #[test]
    fn only_tests_are_listed() {
        assert_eq!(names("a::b: test\nfast: benchmark\nc: test\n"), ["a::b", "c"]);
    }
}
