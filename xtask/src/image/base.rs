//! The image that the Dockerfile builds on, in place of Rust's official one: a C compiler of Debian's packages. The Rust
//! toolchain of this machine and cargo's crates are mounted into it.

use std::path::Path;

use super::archive::{Configuration, write};
use super::buildah::Buildah;
use super::debian;
use super::key::Key;
use super::root::furnish;
use crate::progress::Step;

/// Where the Rust toolchain is mounted.
pub(super) const TOOLCHAIN: &str = "/opt/rust";
/// Where cargo-auditable is mounted.
pub(super) const AUDITABLE: &str = "/opt/cargo-auditable";
/// Where cargo's crates are mounted.
pub(super) const REGISTRY: &str = "/opt/cargo/registry";

const PACKAGES: [&str; 7] = ["ca-certificates", "coreutils", "dash", "findutils", "gcc", "libc6-dev", "sed"];
const ENVIRONMENT: [&str; 3] = [
    "PATH=/opt/rust/bin:/opt/cargo-auditable:/usr/bin:/bin",
    "CARGO_HOME=/opt/cargo",
    "CARGO_NET_OFFLINE=true",
];

/// Tells whether the image would still be the same.
pub(super) fn key(toolchain: &str) -> String {
    let key = Key::new().text(debian::release()).text(PACKAGES.join(" "));
    key.text(ENVIRONMENT.join(" ")).text(toolchain).finish()
}

/// The build image, in buildah's storage.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) reference: String,
}

impl Base {
    /// Makes the image unless it is there.
    pub(super) fn ensure(buildah: &Buildah, key: &str, scratch: &Path) -> anyhow::Result<Self> {
        let base = Self { reference: format!("idtoken.test/build:{key}") };
        if !buildah.has(&base.reference)? {
            let step = Step::start("making the build image of Debian's packages", "half a minute");
            base.make(buildah, scratch)?;
            step.done();
        }
        Ok(base)
    }

    fn make(&self, buildah: &Buildah, scratch: &Path) -> anyhow::Result<()> {
        let root = scratch.join("root");
        debian::unpack(&PACKAGES, &scratch.join("packages"), &root)?;
        furnish(&root)?;
        // Debian's own link is made when the package is installed, which it is not.
        std::os::unix::fs::symlink("gcc", root.join("usr/bin/cc"))?;
        let archive = scratch.join("image.tar");
        let configuration = Configuration { user: "", entrypoint: &[], environment: &ENVIRONMENT };
        write(&root, &configuration, &self.reference, &archive)?;
        buildah.load(&archive)
    }
}
