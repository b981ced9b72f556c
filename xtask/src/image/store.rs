//! Where finished images are kept: `<cache>/images/<name>-<key>.tar`, the newest few of each name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;

use super::Archive;
use crate::tools::{cache_directory, lock};

/// The finished images, and the places where they are made.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn open() -> anyhow::Result<Self> {
        Self::at(cache_directory()?.join("images"))
    }

    pub(super) fn at(directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// For what outlives a single image: buildah's storage, installed programs.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image from the store, or else as `make` puts it into the file that it is given. `make` also gets an empty
    /// directory to work in, which is removed afterwards.
    pub(super) fn get_or_make(
        &self,
        name: &str,
        reference: &str,
        key: &str,
        make: impl FnOnce(&Path, &Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Archive> {
        let archive = Archive {
            path: self.directory.join(format!("{name}-{key}.tar")),
            reference: reference.to_owned(),
        };
        if archive.path.exists() {
            touch(&archive.path);
            return Ok(archive);
        }
        let _lock = self.lock(name)?;
        if archive.path.exists() {
            return Ok(archive);
        }
        let work = self.directory.join(format!("{name}.making"));
        empty(&work)?;
        let unfinished = work.join("image.tar");
        let scratch = work.join("work");
        fs::create_dir(&scratch)?;
        make(&scratch, &unfinished).with_context(|| format!("cannot make the image {name}"))?;
        fs::rename(&unfinished, &archive.path)
            .with_context(|| format!("the image {name} was not written"))?;
        fs::remove_dir_all(&work)?;
        self.prune(name)?;
        Ok(archive)
    }

    /// Holds off every other process that would make the same thing, until the result is dropped.
    pub(super) fn lock(&self, what: &str) -> anyhow::Result<File> {
        lock(&self.directory, what)
    }

    /// Removes all but the newest images of a name.
    fn prune(&self, name: &str) -> anyhow::Result<()> {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if is_image_of(name, &path) {
                images.push((path.metadata()?.modified()?, path));
            }
        }
        images.sort_unstable();
        for (_, path) in images.iter().rev().skip(KEPT) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Marks an image as used now, which keeps it longer. Only a courtesy: failing to is no failure.
#[allow(clippy::disallowed_methods)] // a file's time is the machine's, there is no other to take
fn touch(path: &Path) {
    let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Whether the file is `<name>-<key>.tar`.
fn is_image_of(name: &str, path: &Path) -> bool {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let key = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar"));
    key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Makes the directory, without whatever an earlier, interrupted run has left in it.
pub(super) fn empty(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", directory.display()));
        }
        _ => {}
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

/// Several checkouts share the cache, and each should find its own.
const KEPT: usize = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::cell::Cell;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.contains(".lock"))
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn an_image_is_made_once_for_each_key() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_owned()).unwrap();
        let made = Cell::new(0);
        let get = |key: &str| {
            let make = |_: &Path, image: &Path| {
                made.set(made.get() + 1);
                Ok(fs::write(image, "image")?)
            };
            store.get_or_make("pause", "idtoken.test/pause:1", key, make).unwrap()
        };
        let first = get("aa");
        assert_eq!(first.path, directory.path().join("pause-aa.tar"));
        assert_eq!(first.reference, "idtoken.test/pause:1");
        assert_eq!(get("aa"), first);
        assert_eq!(made.get(), 1);
        get("bb");
        assert_eq!(made.get(), 2);
        assert_eq!(names(directory.path()), ["pause-aa.tar", "pause-bb.tar"]);
    }

    #[test]
    fn a_failure_leaves_no_image_and_the_next_attempt_starts_afresh() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_owned()).unwrap();
        let error = store.get_or_make("shell", "r", "aa", |scratch, image| {
            fs::write(scratch.join("left"), "")?;
            fs::write(image, "half")?;
            anyhow::bail!("no space")
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "cannot make the image shell: no space");
        let make = |scratch: &Path, image: &Path| {
            assert_eq!(fs::read_dir(scratch)?.count(), 0);
            Ok(fs::write(image, "whole")?)
        };
        let archive = store.get_or_make("shell", "r", "aa", make).unwrap();
        assert_eq!(fs::read_to_string(archive.path).unwrap(), "whole");
        assert_eq!(names(directory.path()), ["shell-aa.tar"]);
    }

    #[test]
    fn of_each_name_the_newest_three_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().to_owned()).unwrap();
        fs::write(directory.path().join("python-image-aa.tar"), "").unwrap();
        for key in ["01", "02", "03", "04", "05"] {
            store.get_or_make("python", "r", key, |_, image| Ok(fs::write(image, "")?)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(
            names(directory.path()),
            ["python-03.tar", "python-04.tar", "python-05.tar", "python-image-aa.tar"]
        );
    }
}
