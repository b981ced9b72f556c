//! The images that a node has from the start: there is no registry to pull from.

use std::ffi::OsStr;

use anyhow::Context as _;

use super::configuration::Files;
use super::sandbox::Sandbox;
use crate::image::{self, Archive};
use crate::progress::Step;

/// What a pod's sandbox runs.
pub(super) const PAUSE: &str = "idtoken.test/pause:1";
const SHELL: &str = "idtoken.test/shell:1";

/// Builds them, or takes them from the cache.
pub(super) fn build() -> anyhow::Result<Vec<Archive>> {
    Ok(vec![image::pause()?, image::shell()?, image::python()?, image::product()?])
}

/// Loads them into containerd.
pub(super) fn load(files: &Files, sandbox: &Sandbox, images: &[Archive]) -> anyhow::Result<()> {
    let ctr = |args: &[&OsStr]| {
        let fixed = ["ctr", "--namespace=k8s.io", "--address"].map(OsStr::new);
        sandbox.run(
            files,
            &[&fixed[..], &[files.containerd_socket().as_os_str(), "images".as_ref()], args].concat(),
        )
    };
    for image in images {
        let step = Step::start(format!("loading {}", image.reference), "");
        ctr(&["import".as_ref(), image.path.as_os_str()])
            .with_context(|| format!("cannot load {}", image.reference))?;
        step.done();
    }
    // busybox, under the name that documentation has for it.
    ctr(&["tag", SHELL, "docker.io/library/busybox:stable"].map(OsStr::new))
}
