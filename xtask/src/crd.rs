//! `cargo xtask crd`: writes the CRDs that the types say into `crds/` and into the chart.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::process::Program;

/// Runs `cargo xtask crd`.
pub async fn run() -> anyhow::Result<()> {
    let program = tokio::task::spawn_blocking(crate::demo::build_operator).await??;
    for directory in directories() {
        let log = tempfile::NamedTempFile::new()?;
        let mut crd =
            Program::new(&program).args(["crd", "--output-dir"]).arg(&directory).spawn(log.path())?;
        let status = crd.wait().await?;
        ensure!(status.success(), "idtoken-operator crd failed ({status}): {}", crd.log());
        println!("written: {}", directory.canonicalize().context("the directory has gone")?.display());
    }
    Ok(())
}

/// Where the CRDs are kept: for people, and for the chart.
fn directories() -> [PathBuf; 2] {
    ["crds", "charts/idtoken-operator/files/crds"]
        .map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_chart_has_the_same_crds() {
        let [people, chart] = directories();
        for file in ["idtoken.dev_idtokenbindings.yaml", "idtoken.dev_idtokengrants.yaml"] {
            let read = |directory: &Path| std::fs::read_to_string(directory.join(file)).unwrap();
            assert!(
                read(&people)
                    .starts_with("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n")
            );
            assert_eq!(read(&people), read(&chart), "run: cargo xtask crd");
        }
    }
}
