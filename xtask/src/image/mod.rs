//! Makes the images that a node runs, without a registry of images: the operator's own from the Dockerfile, and small ones
//! for tests.
//!
//! ```text
//! product ─▶ buildah: Dockerfile on a build image ◀─ Debian's packages + the Rust toolchain of this machine
//! pause   ─▶ cc pause.c            ─┐
//! shell   ─▶ Debian's busybox      ─┼─▶ root ─▶ one layer
//! python  ─▶ Debian's python3, PyPI─┘
//! ```
//!
//! # Guarantees
//! - An image is made again only when something that goes into it has changed; the finished ones are in the cache.
//! - Two processes never make the same image at a time: the later one waits, and takes what the first has made.
//! - Containers and images of this machine are untouched: buildah's storage is one of our own, below the cache.

mod archive;
mod base;
mod buildah;
pub mod command;
mod debian;
mod key;
mod pause;
mod product;
mod python;
mod root;
mod shell;
mod store;

use std::path::PathBuf;

/// An image in a file: a docker-archive, as `ctr images import` and `docker load` take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The file.
    pub path: PathBuf,
    /// The name under which the image is known once it is loaded.
    pub reference: String,
}

/// The operator's image, from the Dockerfile and the sources as they are.
pub fn product() -> anyhow::Result<Archive> {
    product::make(&store::Store::open()?)
}

/// An image that does nothing, and ends at once on SIGTERM: what holds a pod together.
pub fn pause() -> anyhow::Result<Archive> {
    pause::make(&store::Store::open()?)
}

/// An image with busybox: `/bin/sh` and its applets.
pub fn shell() -> anyhow::Result<Archive> {
    shell::make(&store::Store::open()?)
}

/// An image with Python, google-auth and requests at `/usr/bin/python3`, and with Envoy at `/usr/local/bin/envoy`.
pub fn python() -> anyhow::Result<Archive> {
    python::make(&store::Store::open()?)
}

/// The user and group of all images: nobody in particular, and not root.
const USER: &str = "65532:65532";
