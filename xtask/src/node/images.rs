//! The images that a node has from the start: there is no registry to pull from.

use anyhow::Context as _;

use super::configuration::Files;
use super::sandbox::Sandbox;
use crate::image::{self, Archive};
use crate::progress::Step;

/// What a pod's sandbox runs.
pub(super) const PAUSE: &str = "idtoken.test/pause:1";

/// Builds them, or takes them from the cache.
pub(super) fn build() -> anyhow::Result<Vec<Archive>> {
    Ok(vec![image::pause()?, image::shell()?, image::python()?])
}

/// Loads them into containerd.
pub(super) fn load(files: &Files, sandbox: &Sandbox, images: &[Archive]) -> anyhow::Result<()> {
    for image in images {
        let step = Step::start(format!("loading {}", image.reference), "");
        sandbox
            .run(
                files,
                &[
                    "ctr".as_ref(),
                    "--address".as_ref(),
                    files.containerd_socket().as_os_str(),
                    "--namespace=k8s.io".as_ref(),
                    "images".as_ref(),
                    "import".as_ref(),
                    image.path.as_os_str(),
                ],
            )
            .with_context(|| format!("cannot load {}", image.reference))?;
        step.done();
    }
    Ok(())
}
