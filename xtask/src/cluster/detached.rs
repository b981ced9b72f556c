//! Clusters that outlive the command that started them: `<cache>/clusters/<name>/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::arguments::{API_SERVER, CONTROLLER_MANAGER, ETCD};
use super::home::{self, COMPLETE, Home, KUBECONFIG};
use super::{Cluster, ClusterOptions, GRACE, start};
use crate::process::send_signal;
use crate::tools::cache_directory;

/// The place of all detached clusters.
#[derive(Clone, Debug)]
pub(super) struct Clusters {
    directory: PathBuf,
}

impl Clusters {
    pub(super) fn open() -> anyhow::Result<Self> {
        let directory = cache_directory()?.join("clusters");
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Keeps other commands from starting and ending clusters, until the result is dropped.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        let lock =
            File::create(self.directory.join(".lock")).context("cannot create the lock of the clusters")?;
        lock.lock().context("cannot lock the clusters")?;
        Ok(lock)
    }

    /// The cluster of that name, which need not exist.
    pub(super) fn named(&self, name: &str) -> anyhow::Result<Detached> {
        home::require_plain("cluster", name)?;
        Ok(Detached { name: name.to_owned(), directory: self.directory.join(name) })
    }

    /// Every cluster that has a directory, running or not, by name.
    pub(super) fn all(&self) -> anyhow::Result<Vec<Detached>> {
        let mut clusters: Vec<Detached> = fs::read_dir(&self.directory)?
            .filter_map(|entry| self.named(entry.ok()?.file_name().to_str()?).ok())
            .filter(|cluster| cluster.directory.is_dir())
            .collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(clusters)
    }
}

/// A detached cluster, running or not.
#[derive(Clone, Debug)]
pub(super) struct Detached {
    name: String,
    directory: PathBuf,
}

impl Detached {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.join(KUBECONFIG)
    }

    /// Whether it was started to the end and all of it still runs.
    pub(super) fn is_running(&self) -> bool {
        let noted = END_ORDER.iter().filter(|name| self.has(name));
        self.directory.join(COMPLETE).exists() && noted.into_iter().all(|name| self.pid(name).is_some())
    }

    /// Whether kube-controller-manager is a part of it.
    pub(super) fn has_controller_manager(&self) -> bool {
        self.has(CONTROLLER_MANAGER)
    }

    fn has(&self, name: &str) -> bool {
        home::pid_file(&self.directory, name).exists()
    }

    /// Starts it and leaves it running.
    pub(super) async fn start(&self, options: ClusterOptions) -> anyhow::Result<()> {
        let home = Home::detached(self.directory.clone())?;
        let cluster: Cluster = start::start(home, options).await?;
        cluster.leave_running()
    }

    /// Ends what runs of it and removes its directory. Returns whether there was anything to do.
    pub(super) async fn end(&self) -> anyhow::Result<bool> {
        let there = self.directory.exists();
        for name in END_ORDER {
            if let Some(pid) = self.pid(name) {
                self.end_process(pid).await.with_context(|| format!("cannot end {name} (process {pid})"))?;
            }
        }
        home::remove(&self.directory)?;
        Ok(there)
    }

    async fn end_process(&self, pid: u32) -> anyhow::Result<()> {
        for (signal, patience) in [("TERM", GRACE), ("KILL", GRACE)] {
            // Between a look and a signal it may have ended by itself: then the signal fails, and the look decides.
            let _ = send_signal(pid, signal);
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if !belongs_to(pid, &self.directory) {
                    return Ok(());
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        anyhow::bail!("it survives SIGKILL")
    }

    /// The noted id of a process, if that process still is ours: ids are used again.
    fn pid(&self, name: &str) -> Option<u32> {
        let pid = fs::read_to_string(home::pid_file(&self.directory, name)).ok()?.trim().parse().ok()?;
        belongs_to(pid, &self.directory).then_some(pid)
    }
}

/// Whether the command line of a process names a file in this directory.
fn belongs_to(pid: u32, directory: &Path) -> bool {
    let prefix = format!("{}/", directory.display());
    command_line(pid).is_some_and(|line| line.contains(&prefix))
}

fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&line).into_owned());
    }
    let output = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An API server whose etcd is gone does not end on SIGTERM: etcd goes last.
const END_ORDER: [&str; 3] = [CONTROLLER_MANAGER, API_SERVER, ETCD];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::process::Program;

    fn clusters(directory: &Path) -> Clusters {
        Clusters { directory: directory.to_owned() }
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let clusters = clusters(Path::new("/clusters"));
        for bad in ["", "..", "a/b", "A", ".lock", &"a".repeat(41)] {
            assert!(clusters.named(bad).is_err(), "{bad}");
        }
        assert_eq!(clusters.named("test-1").unwrap().kubeconfig(), Path::new("/clusters/test-1/kubeconfig"));
    }

    #[tokio::test]
    async fn a_process_that_is_not_ours_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = clusters(directory.path()).named("default").unwrap();
        fs::create_dir(&cluster.directory).unwrap();
        let mut stranger = Program::new("sleep").arg("60").spawn(&directory.path().join("log")).unwrap();
        fs::write(cluster.directory.join("etcd.pid"), stranger.pid().to_string()).unwrap();
        fs::write(cluster.directory.join("complete"), "").unwrap();
        assert!(!cluster.is_running());
        assert!(cluster.end().await.unwrap());
        assert!(stranger.try_wait().unwrap().is_none());
        assert!(!cluster.directory.exists());
    }

    #[tokio::test]
    async fn a_process_of_ours_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = clusters(directory.path()).named("default").unwrap();
        fs::create_dir(&cluster.directory).unwrap();
        let ours = format!("--data-dir={}/etcd", cluster.directory.display());
        let script = Program::new("sh").args(["-c", "while :; do sleep 0.05; done", &ours]);
        let mut process = script.spawn(&directory.path().join("log")).unwrap();
        fs::write(cluster.directory.join("etcd.pid"), process.pid().to_string()).unwrap();
        let status = process.wait_within(Duration::from_millis(200)).await.unwrap();
        assert_eq!(status, None);
        assert!(!cluster.is_running(), "its start was interrupted");
        fs::write(cluster.directory.join("complete"), "").unwrap();
        assert!(cluster.is_running());
        assert!(cluster.end().await.unwrap());
        assert!(process.wait_within(Duration::from_secs(5)).await.unwrap().is_some());
        assert!(!cluster.end().await.unwrap(), "the second time there is nothing to do");
    }
}
