//! The image `shell`: Debian's static busybox, and a link for each of its applets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::archive::{Configuration, write};
use super::debian;
use super::key::Key;
use super::root::furnish;
use super::store::Store;
use super::{Archive, USER};
use crate::progress::Step;

const REFERENCE: &str = "idtoken.test/shell:1";
const PACKAGES: [&str; 1] = ["busybox-static"];

pub(super) fn make(store: &Store) -> anyhow::Result<Archive> {
    let key = Key::new().text(debian::release()).text(PACKAGES.join(" ")).finish();
    store.get_or_make("shell", REFERENCE, &key, |scratch, image| {
        let step = Step::start("making the image shell", "a few seconds");
        let root = scratch.join("root");
        debian::unpack(&PACKAGES, &scratch.join("packages"), &root)?;
        furnish(&root)?;
        link_applets(&root)?;
        let configuration = Configuration { user: USER, entrypoint: &["/bin/sh"], environment: &[PATH] };
        write(&root, &configuration, REFERENCE, image)?;
        step.done();
        Ok(())
    })
}

fn link_applets(root: &Path) -> anyhow::Result<()> {
    let busybox = root.join("bin/busybox");
    let output = Command::new(&busybox).arg("--list").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {}", busybox.display()))?;
    ensure!(output.status.success(), "busybox --list failed");
    for applet in String::from_utf8_lossy(&output.stdout).lines() {
        let link = root.join("bin").join(applet);
        if fs::symlink_metadata(&link).is_err() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

const PATH: &str = "PATH=/usr/bin:/bin";
