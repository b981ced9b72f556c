//! The directory of one cluster.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// A cluster's directory. Removed when dropped, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    kubeconfig: PathBuf,
    /// Locked for as long as the owner of a temporary directory lives: so others know it from one left behind.
    owner: Option<File>,
    kept: bool,
}

impl Home {
    /// A fresh temporary directory. Those of owners that were killed are removed on the way.
    pub(super) fn temporary() -> anyhow::Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent);
        let path = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&parent)?
            .keep();
        let owner = File::create(path.join(OWNER))?;
        owner.lock().context("cannot lock the directory of the cluster")?;
        Ok(Self::new(path, Some(owner)))
    }

    /// A directory of a known name, for a cluster that outlives this process. There must be none yet.
    pub(crate) fn detached(path: PathBuf) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(false)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self::new(path, None))
    }

    fn new(path: PathBuf, owner: Option<File>) -> Self {
        Self { kubeconfig: path.join(KUBECONFIG), path, owner, kept: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether its cluster is to outlive this process.
    pub(super) fn is_detached(&self) -> bool {
        self.owner.is_none()
    }

    /// Notes the id of a process, for whoever is to end it later.
    pub(super) fn note_pid(&self, name: &str, pid: u32) -> anyhow::Result<()> {
        fs::write(pid_file(&self.path, name), pid.to_string()).context("cannot note a process id")
    }

    /// Leaves the directory where it is, with the note that all in it has started.
    pub(crate) fn keep(&mut self) -> anyhow::Result<()> {
        fs::write(self.path.join(COMPLETE), "").context("cannot note that the cluster is complete")?;
        self.kept = true;
        Ok(())
    }

    /// Removes the directory and tells if that fails.
    pub(super) fn remove(&mut self) -> anyhow::Result<()> {
        self.kept = true;
        remove(&self.path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.path)
        {
            eprintln!("{error:#}");
        }
    }
}

/// Refuses a name that is not plain: it becomes that of a directory. `what` is what has the name, for the message.
pub(crate) fn require_plain(what: &str, name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        (1..=40).contains(&name.len()) && name.chars().all(plain),
        "the name of a {what} is 1 to 40 of a-z, 0-9 and -, not {name:?}"
    );
    Ok(())
}

/// The name of the administrator's kubeconfig in a cluster's directory.
pub(super) const KUBECONFIG: &str = "kubeconfig";

/// The file that says that a detached cluster was started to the end.
pub(crate) const COMPLETE: &str = "complete";

/// Where the id of a process is noted.
pub(super) fn pid_file(home: &Path, name: &str) -> PathBuf {
    home.join(format!("{name}.pid"))
}

/// Removes a directory and all in it; fine if there is none.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what owners that were killed have left. Someone else's directories are not ours to remove, nor to report.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(owner) = File::open(entry.path().join(OWNER))
            && owner.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const PREFIX: &str = "idtoken-cluster-";
const OWNER: &str = "owner.lock";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn only_abandoned_directories_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, owner: bool| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            let owner = owner.then(|| File::create(path.join("owner.lock")).unwrap());
            (path, owner)
        };
        let (abandoned, _) = make("idtoken-cluster-abandoned", true);
        let (living, owner) = make("idtoken-cluster-living", true);
        owner.as_ref().unwrap().lock().unwrap();
        let (starting, _) = make("idtoken-cluster-starting", false);
        let (foreign, _) = make("something-else", true);
        remove_abandoned(parent.path());
        assert!(!abandoned.exists());
        assert!(living.exists() && starting.exists() && foreign.exists());
        drop(owner);
        remove_abandoned(parent.path());
        assert!(!living.exists());
    }

    #[test]
    fn a_home_is_private_and_goes_with_its_owner() {
        let home = Home::temporary().unwrap();
        let path = home.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_kept_home_stays_and_cannot_be_made_twice() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("default");
        let mut home = Home::detached(path.clone()).unwrap();
        home.keep().unwrap();
        drop(home);
        assert!(path.exists());
        assert!(Home::detached(path).is_err());
    }
}
