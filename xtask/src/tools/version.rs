//! Versions of programs, as the programs tell them.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::Tool;

/// Major, minor, patch. Orders as versions do; what follows them (`-rc.1`, `+build`) is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

impl Version {
    /// Runs a program to ask for its version.
    pub(super) fn of(tool: Tool, program: &Path) -> anyhow::Result<Self> {
        let output = Command::new(program)
            .args(tool.version_arguments())
            .stdin(Stdio::null())
            .output()
            .context("it does not run")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "asked for its version, it ended with {}", output.status);
        Self::find_in(&printed).with_context(|| format!("no version in what it prints: {:?}", printed.trim()))
    }

    /// The first word of `text` that is a version.
    pub(super) fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::parse)
    }

    /// Reads `1.36.3`, `v1.36.3`, `go1.26` or `v4.3.1+g0a1b2c3`.
    pub(super) fn parse(word: &str) -> Option<Self> {
        let word = word.strip_prefix("go").or_else(|| word.strip_prefix('v')).unwrap_or(word);
        let numbers = word.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(str::parse);
        let version = Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?);
        parts.next().is_none().then_some(version)
    }

    /// Whether both are patches of one minor version.
    pub(super) fn same_minor(self, other: Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let etcd = "etcd Version: 3.6.16\nGit SHA: Not provided\nGo Version: go1.26.8\n";
        assert_eq!(Version::find_in(etcd), Some(Version(3, 6, 16)));
        assert_eq!(Version::find_in("Kubernetes v1.36.3"), Some(Version(1, 36, 3)));
        assert_eq!(Version::find_in("v4.3.1+gba5ed1c"), Some(Version(4, 3, 1)));
        assert_eq!(Version::find_in("go version go1.26.8 linux/amd64"), Some(Version(1, 26, 8)));
        assert_eq!(Version::find_in("go version go1.27 linux/amd64"), Some(Version(1, 27, 0)));
        assert_eq!(Version::find_in("Kubernetes v1.31.0-rc.1"), Some(Version(1, 31, 0)));
        assert_eq!(Version::find_in("nothing of the kind, 12"), None);
    }

    #[test]
    fn versions_order_by_number_not_by_text() {
        assert!(Version(3, 10, 0) > Version(3, 9, 9));
        assert!(Version(1, 36, 3).same_minor(Version(1, 36, 0)));
        assert!(!Version(1, 36, 3).same_minor(Version(1, 35, 3)));
    }
}
