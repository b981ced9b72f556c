//! The image `pause`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::archive::{Configuration, write};
use super::key::Key;
use super::root::furnish;
use super::store::Store;
use super::{Archive, USER};
use crate::progress::Step;

const REFERENCE: &str = "idtoken.test/pause:1";
const SOURCE: &str = include_str!("pause.c");

pub(super) fn make(store: &Store) -> anyhow::Result<Archive> {
    let key = Key::new().text(SOURCE).finish();
    store.get_or_make("pause", REFERENCE, &key, |scratch, image| {
        let step = Step::start("making the image pause", "a second");
        let root = scratch.join("root");
        furnish(&root)?;
        compile(scratch, &root.join("pause"))?;
        write(
            &root,
            &Configuration { user: USER, entrypoint: &["/pause"], environment: &[] },
            REFERENCE,
            image,
        )?;
        step.done();
        Ok(())
    })
}

fn compile(scratch: &Path, program: &Path) -> anyhow::Result<()> {
    let source = scratch.join("pause.c");
    fs::write(&source, SOURCE)?;
    let output = Command::new("cc")
        .args(["-Os", "-s", "-static", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(program)
        .arg(&source)
        .stdin(Stdio::null())
        .output()
        .context("there is no C compiler (cc)")?;
    ensure!(output.status.success(), "cc failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
