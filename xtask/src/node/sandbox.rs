//! The namespaces that a node lives in, held by one process: the first of a process namespace. When it ends, the kernel
//! ends all the others, and with the last of them go the mounts and the network.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use super::configuration::{Files, NODE_ADDRESS};
use crate::cluster::detached::belongs_to;
use crate::process::{Process, Program, send_signal};

/// The first process of a node.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// As this process sees it.
    pid: u32,
    /// Kills the sandbox when dropped; `None` for one that was found.
    holder: Option<Process>,
}

impl Sandbox {
    /// Makes the namespaces and the node's network.
    pub(super) fn start(files: &Files) -> anyhow::Result<Self> {
        fs::create_dir_all(files.log_directory())?;
        fs::write(files.init(), INIT)?;
        let log = files.log("sandbox");
        let holder = Program::new("unshare")
            .args(["--fork", "--pid", "--kill-child=KILL", "--mount", "--mount-proc", "--net", "--", "sh"])
            .args([files.init().as_os_str(), files.home().as_os_str(), NODE_ADDRESS.as_ref()])
            .detached()
            .spawn(&log)?;
        let pid = first_child(holder.pid(), Duration::from_secs(5))?;
        fs::write(files.pid("sandbox"), pid.to_string())?;
        let mut sandbox = Self { pid, holder: Some(holder) };
        sandbox.wait_until_made(files)?;
        Ok(sandbox)
    }

    /// The sandbox of a node that runs.
    pub(super) fn find(files: &Files) -> Option<Self> {
        let pid = noted(&files.pid("sandbox"), files.home())?;
        Some(Self { pid, holder: None })
    }

    fn wait_until_made(&mut self, files: &Files) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !files.home().join(MADE).exists() {
            let holder = self.holder.as_mut().context("a sandbox that was found is made already")?;
            if let Some(status) = holder.try_wait()? {
                return Err(holder.ended_early(status))
                    .context("the node's namespaces can't be made (is this root?)");
            }
            if Instant::now() > deadline {
                bail!("the node's network was not made within 10 s; see {}", holder.log_path().display());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// A program of the node, run in its namespaces with the node's directory as working directory.
    pub(super) fn program(&self, files: &Files, path: &Path) -> Program {
        Program::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--mount", "--net", "--pid", "--", "env"])
            .arg(format!("--chdir={}", files.home().display()))
            .arg(path)
            .detached()
    }

    /// Runs a program of the node to its end; the error has what it said.
    pub(super) fn run(&self, files: &Files, command: &[&OsStr]) -> anyhow::Result<()> {
        let output = Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--mount", "--net", "--pid", "--", "env"])
            .arg(format!("--chdir={}", files.home().display()))
            .args(command)
            .stdin(Stdio::null())
            .output()
            .context("there is no nsenter (util-linux)")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Moves this thread, and those that it starts from now on, into the node's network.
    pub(super) fn enter_network(&self) -> anyhow::Result<()> {
        let network = File::open(format!("/proc/{}/ns/net", self.pid))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the node's network (that takes root)")
    }

    /// The network namespace's file, for programs that enter it themselves.
    pub(super) fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }

    /// Lets it outlive this process.
    pub(super) fn leave_running(mut self) {
        if let Some(holder) = self.holder.take() {
            holder.leave_running();
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.holder.is_some()
            && let Err(error) = kill(self.pid)
        {
            eprintln!("cannot end a node that did not start (process {}): {error:#}", self.pid);
        }
    }
}

/// Ends what runs of a node and removes what the kernel does not remove by itself. Fine if nothing runs.
pub(super) fn end(files: &Files) -> anyhow::Result<()> {
    for name in ["forwarder", "sandbox"] {
        if let Some(pid) = noted(&files.pid(name), files.home()) {
            kill(pid).with_context(|| format!("cannot end the {name} of the node (process {pid})"))?;
        }
    }
    remove_cgroups(Path::new("/sys/fs/cgroup"));
    // The mount point that the sandbox has made. Where others use it, it is not empty and stays.
    let _ = fs::remove_dir("/var/lib/cni");
    Ok(())
}

/// The first process of a process namespace is gone only when all others are.
fn kill(pid: u32) -> anyhow::Result<()> {
    // It may have ended by itself since: then the signal fails, and the look below decides.
    let _ = send_signal(pid, "KILL");
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_alive(pid) {
        if Instant::now() > deadline {
            bail!("it survives SIGKILL");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Whether it is there and more than a zombie that its parent has not looked at.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The control groups of containers that are no more: those of others are not empty, and stay.
fn remove_cgroups(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    let hierarchies = entries.flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        for group in ["k8s.io", "kubepods"] {
            remove_group(&hierarchy.join(group));
        }
    }
}

fn remove_group(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path());
    }
    let _ = fs::remove_dir(group);
}

/// The noted id of a process, if that process still is ours: ids are used again.
fn noted(file: &Path, home: &Path) -> Option<u32> {
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    belongs_to(pid, home).then_some(pid)
}

fn first_child(pid: u32, within: Duration) -> anyhow::Result<u32> {
    let children = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
    let deadline = Instant::now() + within;
    loop {
        let listed = fs::read_to_string(&children).unwrap_or_default();
        if let Some(child) = listed.split_whitespace().next() {
            return child.parse().context("the kernel's list of children is no list of numbers");
        }
        if Instant::now() > deadline {
            bail!("the node's namespaces can't be made (is this root?)");
        }
        std::thread::sleep(POLL);
    }
}

const POLL: Duration = Duration::from_millis(20);
const MADE: &str = "made";

/// Makes the mounts and the network, then reaps whoever is orphaned. `$1` is the node's directory, `$2` its address.
/// The bridge has no ports: it is there to have an address. What the node's programs write to fixed places goes to
/// file systems of the sandbox's own.
const INIT: &str = r#"set -e
mount --make-rshared /
mkdir -p /var/lib/cni
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/cni
mount --bind "$1/log" /var/log
ip link set lo up
ip link add node0 type bridge
ip address add "$2/24" dev node0
ip link set node0 up
ip route add default dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$1/made"
while :; do
    sleep 3600 &
    wait $!
done
"#;
