//! The renders that are kept: one for each file of values that the chart brings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{directory, template};
use crate::workspace;

/// A file of values, and what the chart renders with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// `ha`, of `values-ha.yaml`; or `namespaced`, of `ci/namespaced-values.yaml`.
    pub name: String,
    /// The file of values.
    pub values: PathBuf,
}

impl Case {
    /// The text that the chart renders; without the CRDs, which are the same every time.
    pub fn render(&self, helm: &Path) -> anyhow::Result<String> {
        let arguments =
            ["--set".as_ref(), "crds.enabled=false".as_ref(), "--values".as_ref(), self.values.as_os_str()];
        template(helm, arguments).with_context(|| format!("with {}", self.values.display()))
    }

    /// Where the render is kept.
    pub(super) fn path(&self) -> PathBuf {
        golden_directory().join(format!("{}.yaml", self.name))
    }
}

/// Every `ci/*-values.yaml` (those for users, `values-*.yaml`, are linked there), by name.
pub fn cases() -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory().join("ci")).context("the chart has no directory ci")? {
        let values = entry?.path();
        let name = values
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix("-values.yaml"));
        let name =
            name.with_context(|| format!("{} is not called *-values.yaml", values.display()))?.to_owned();
        cases.push(Case { name, values });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

pub(super) fn golden_directory() -> PathBuf {
    workspace::root().join("tests/golden/chart")
}
