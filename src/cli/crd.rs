//! `idtoken-operator crd`.

use std::path::PathBuf;

use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use crate::api::{IdTokenBinding, IdTokenGrant};

/// Print the CRDs as YAML
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write one file a kind into this directory instead of printing
    #[arg(long, env = "IDTOKEN_OPERATOR_OUTPUT_DIR", value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    for crd in [IdTokenBinding::crd(), IdTokenGrant::crd()] {
        let yaml = yaml(&crd)?;
        match &args.output_dir {
            None => print!("---\n{yaml}"),
            Some(directory) => {
                let file = directory.join(format!("idtoken.dev_{}.yaml", crd.spec.names.plural));
                std::fs::write(&file, yaml)
                    .with_context(|| format!("{} can't be written", file.display()))?;
            }
        }
    }
    Ok(())
}

fn yaml(crd: &CustomResourceDefinition) -> anyhow::Result<String> {
    Ok(serde_yaml_ng::to_string(crd)?)
}
