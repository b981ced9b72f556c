//! What is made from the chart's sources: written, or compared with what is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::golden::{cases, golden_directory};
use super::values::Values;
use super::{directory, readme, schema};
use crate::tools::{Tool, Tools};

/// Writes all of it.
pub(super) fn write() -> anyhow::Result<()> {
    let values = values()?;
    // Helm reads the schema: it must be right before anything is rendered.
    for made in [schema_file(&values)?, readme_file(&values)?] {
        put(&made.0, &made.1)?;
    }
    let tools = Tools::find(&[Tool::Helm])?;
    let goldens = goldens(tools.path(Tool::Helm))?;
    for stale in there()?.into_iter().filter(|path| !goldens.contains_key(path)) {
        fs::remove_file(&stale)?;
        println!("removed: {}", stale.display());
    }
    goldens.iter().try_for_each(|(path, text)| put(path, text))
}

/// Fails where something is not as it would be written.
pub(super) fn check(helm: &Path) -> anyhow::Result<()> {
    let values = values()?;
    let mut expected = goldens(helm)?;
    expected.extend([schema_file(&values)?, readme_file(&values)?]);
    let differing =
        expected.iter().filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text));
    let differing = differing.map(|(path, _)| path.clone());
    let stale = there()?.into_iter().filter(|path| !expected.contains_key(path));
    let wrong: Vec<String> = differing.chain(stale).map(|path| path.display().to_string()).collect();
    ensure!(wrong.is_empty(), "not as `cargo xtask chart` writes it: {}", wrong.join(", "));
    Ok(())
}

/// The values of the chart, with their comments.
pub(super) fn values() -> anyhow::Result<Values> {
    Values::parse(&read(&directory().join("values.yaml"))?)
}

fn schema_file(values: &Values) -> anyhow::Result<(PathBuf, String)> {
    Ok((directory().join("values.schema.json"), schema::render(values)?))
}

fn readme_file(values: &Values) -> anyhow::Result<(PathBuf, String)> {
    let path = directory().join("README.md");
    let text = readme::render(&read(&path)?, values)?;
    Ok((path, text))
}

fn goldens(helm: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    cases()?.into_iter().map(|case| Ok((case.path(), case.render(helm)?))).collect()
}

/// The renders that are kept now.
fn there() -> anyhow::Result<Vec<PathBuf>> {
    if !golden_directory().is_dir() {
        return Ok(Vec::new());
    }
    fs::read_dir(golden_directory())?.map(|entry| Ok(entry?.path())).collect()
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
