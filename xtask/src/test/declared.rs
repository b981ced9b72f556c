//! The ignored tests as the sources declare them: `#[ignore = "tier NAME: why"]`. libtest doesn't tell the reasons.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Tier;
use super::binaries::Binary;
use super::report::Report;

/// An ignored test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) file: PathBuf,
    pub(super) function: String,
    pub(super) tier: Tier,
}

/// Reads the sources of every package that has a test binary. What names no tier is a problem.
pub(super) fn scan(binaries: &[Binary], report: &mut Report) -> anyhow::Result<Vec<Declared>> {
    let packages: BTreeSet<&Path> = binaries.iter().map(|binary| binary.package.as_path()).collect();
    let mut declared = Vec::new();
    for package in packages {
        for directory in ["src", "tests", "benches", "examples"] {
            for file in sources(&package.join(directory))? {
                let text =
                    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let (found, problems) = parse(&file, &text);
                declared.extend(found);
                for problem in problems {
                    report.problem(problem);
                }
            }
        }
    }
    Ok(declared)
}

/// The Rust files in a directory and below, if there is one.
fn sources(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn parse(file: &Path, text: &str) -> (Vec<Declared>, Vec<String>) {
    let (mut declared, mut problems) = (Vec::new(), Vec::new());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (index, line) in lines.iter().enumerate() {
        let is_hidden = line.starts_with("#[cfg_attr") && line.contains("ignore");
        if !line.starts_with("#[ignore") && !is_hidden {
            continue;
        }
        let function = lines[index..].iter().find_map(|line| function_name(line)).unwrap_or_default();
        match tier(line) {
            Some(tier) => declared.push(Declared { file: file.to_owned(), function: function.into(), tier }),
            None => problems.push(format!(
                "{}:{}: {line}: the test {function} names no tier; write #[ignore = \"tier api: why\"] (or clients, node)",
                file.display(),
                index + 1,
            )),
        }
    }
    (declared, problems)
}

fn tier(line: &str) -> Option<Tier> {
    let reason = line.strip_prefix("#[ignore = \"tier ")?.strip_suffix("\"]")?;
    let (name, why) = reason.split_once(": ")?;
    Tier::of_ignored(name).filter(|_| !why.is_empty())
}

fn function_name(line: &str) -> Option<&str> {
    let before_arguments = line.split_once('(')?.0;
    let words: Vec<&str> = before_arguments.split_whitespace().collect();
    match words.as_slice() {
        [.., "fn", name] => Some(name.split('<').next().unwrap_or(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_stands_in_the_reason() {
        let text = "#[tokio::test(flavor = \"multi_thread\")]\n    #[ignore = \"tier api: needs a server\"]\n    async fn one() {\n";
        let (declared, problems) = parse(Path::new("tests/x.rs"), text);
        assert_eq!(
            declared,
            [Declared { file: "tests/x.rs".into(), function: "one".into(), tier: Tier::Api }]
        );
        assert!(problems.is_empty());
    }

    #[test]
    fn a_test_without_a_known_tier_is_a_problem() {
        for attribute in [
            "#[ignore]",
            "#[ignore = \"slow\"]",
            "#[ignore = \"tier unit: not ignored\"]",
            "#[ignore = \"tier api\"]",
            "#[cfg_attr(not(feature = \"x\"), ignore)]",
        ] {
            let (declared, problems) = parse(Path::new("x.rs"), &format!("{attribute}\nfn two() {{}}\n"));
            assert!(declared.is_empty(), "{attribute}");
            assert_eq!(problems.len(), 1, "{attribute}");
            assert!(problems[0].starts_with("x.rs:1: "), "{problems:?}");
            assert!(problems[0].contains("the test two names no tier"), "{problems:?}");
        }
    }
}
