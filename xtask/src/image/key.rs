//! Tells by a hash whether something that goes into an image has changed.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use aws_lc_rs::digest::{Context, SHA256};

/// Collects what goes into an image, in a fixed order.
#[derive(Clone)]
pub(super) struct Key(Context);

impl Key {
    /// Begins with how images are made: after a change of that, all are made again.
    pub(super) fn new() -> Self {
        SOURCES.iter().fold(Self(Context::new(&SHA256)), Self::text)
    }

    /// A text: a list of packages, a version.
    pub(super) fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        // With its length, so that what stands in one can't be taken for the beginning of the next.
        self.0.update(&text.len().to_le_bytes());
        self.0.update(text);
        self
    }

    /// A file or everything below a directory, names and contents; also that there is none.
    pub(super) fn path(mut self, root: &Path, relative: &str) -> anyhow::Result<Self> {
        let path = root.join(relative);
        if path.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            self = self.text(format!("{relative}/ {}", names.len()));
            for name in names {
                self = self.path(root, &format!("{relative}/{name}"))?;
            }
            return Ok(self);
        }
        match fs::read(&path) {
            Ok(contents) => Ok(self.text(relative).text(contents)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(self.text(format!("{relative} is missing")))
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Short enough for a file name, long enough to never meet another.
    pub(super) fn finish(self) -> String {
        hex(&self.0.finish().as_ref()[..8])
    }
}

/// The sources of this module, but for the command.
const SOURCES: [&str; 11] = [
    include_str!("archive.rs"),
    include_str!("base.rs"),
    include_str!("buildah.rs"),
    include_str!("debian.rs"),
    include_str!("mod.rs"),
    include_str!("pause.rs"),
    include_str!("product.rs"),
    include_str!("python.rs"),
    include_str!("root.rs"),
    include_str!("shell.rs"),
    include_str!("store.rs"),
];

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(directory: &Path) -> String {
        Key::new().path(directory, "src").unwrap().path(directory, "Cargo.lock").unwrap().finish()
    }

    #[test]
    fn every_change_of_a_tree_changes_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("src/deep")).unwrap();
        fs::write(root.join("src/deep/a.rs"), "one").unwrap();
        let mut keys = vec![of(root)];
        assert_eq!(of(root), keys[0]);
        fs::write(root.join("src/deep/a.rs"), "two").unwrap();
        keys.push(of(root));
        fs::rename(root.join("src/deep/a.rs"), root.join("src/deep/b.rs")).unwrap();
        keys.push(of(root));
        fs::write(root.join("src/deep/c.rs"), "").unwrap();
        keys.push(of(root));
        fs::write(root.join("Cargo.lock"), "").unwrap();
        keys.push(of(root));
        let mut unique = keys.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 5, "{keys:?}");
    }

    #[test]
    fn neighbouring_texts_do_not_run_together() {
        assert_ne!(Key::new().text("ab").text("c").finish(), Key::new().text("a").text("bc").finish());
    }

    #[test]
    fn a_key_is_a_file_name() {
        let key = Key::new().text("a").finish();
        assert_eq!(key.len(), 16);
        assert!(key.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{key}");
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
