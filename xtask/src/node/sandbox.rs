//! The namespaces that a node lives in, held by one process: the first of a process namespace. When it ends, the kernel
//! ends all the others, and with the last of them go the mounts and the network.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use super::configuration::{Files, NODE_ADDRESS};
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
        ensure!(
            !files.home().starts_with("/var/lib"),
            "a node has a /var/lib of its own, so its files can't be in {}: set IDTOKEN_CACHE_DIR to another directory",
            files.home().display()
        );
        fs::create_dir_all(files.log_directory())?;
        fs::write(files.init(), INIT)?;
        let mut holder = Program::new("unshare")
            .args(["--fork", "--pid", "--kill-child=KILL", "--mount", "--mount-proc", "--net", "--", "sh"])
            .args([files.init().as_os_str(), files.home().as_os_str(), NODE_ADDRESS.as_ref()])
            .detached()
            .spawn(&files.log("sandbox"))?;
        wait_until_made(files, &mut holder)?;
        let pid = first_process(files).context("the sandbox has ended already")?;
        Ok(Self { pid, holder: Some(holder) })
    }

    /// The sandbox of a node that runs.
    pub(super) fn find(files: &Files) -> Option<Self> {
        first_process(files).map(|pid| Self { pid, holder: None })
    }

    /// A program of the node, run in its namespaces with the node's directory as working directory.
    pub(super) fn program(&self, files: &Files, path: &Path) -> Program {
        Program::new("nsenter").args(self.entry(files)).arg(path).detached()
    }

    /// What nsenter is told before the program.
    fn entry(&self, files: &Files) -> [String; 8] {
        let directory = format!("--chdir={}", files.home().display());
        let [target, mount, net, pid, end, env] =
            ["--target", "--mount", "--net", "--pid", "--", "env"].map(str::to_owned);
        [target, self.pid.to_string(), mount, net, pid, end, env, directory]
    }

    /// Runs a program of the node to its end; the error has what it said.
    pub(super) fn run(&self, files: &Files, command: &[&OsStr]) -> anyhow::Result<()> {
        let output = Command::new("nsenter")
            .args(self.entry(files))
            .args(command)
            .stdin(Stdio::null())
            .output()
            .context("there is no nsenter (util-linux)")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Moves this thread, and those that it starts from now on, into the node's network.
    pub(super) fn enter_network(&self) -> anyhow::Result<()> {
        let network = File::open(self.network())?;
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

fn wait_until_made(files: &Files, holder: &mut Process) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !files.home().join(MADE).exists() {
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

/// Ends what runs of a node and removes what the kernel does not remove by itself. Fine if nothing runs.
pub(super) fn end(files: &Files) -> anyhow::Result<()> {
    let containers = containers(files);
    // Looked for and not noted: a start that was killed in its midst has noted nothing.
    for pid in roots(files) {
        kill(pid).with_context(|| format!("cannot end process {pid} of the node"))?;
    }
    for hierarchy in hierarchies() {
        let ours = hierarchy.join("k8s.io");
        for container in &containers {
            remove_group(&ours.join(container));
        }
        // The last one out.
        let _ = fs::remove_dir(ours);
    }
    Ok(())
}

/// The processes that a node hangs on: the holder of the sandbox, the sandbox's first, and the forwarder.
fn roots(files: &Files) -> Vec<u32> {
    let init = files.init().display().to_string();
    let forwarder_log = files.log("forwarder").display().to_string();
    let is_root = |line: &[String]| match line.first().map(String::as_str) {
        Some("unshare" | "sh") => line.contains(&init),
        Some("socat") => line.iter().any(|word| word.ends_with(&forwarder_log)),
        _ => false,
    };
    processes(is_root)
}

/// The first process of a node's sandbox.
fn first_process(files: &Files) -> Option<u32> {
    let init = files.init().display().to_string();
    let is_first = |line: &[String]| line.starts_with(&["sh".to_owned(), init.clone()]);
    processes(is_first).first().copied()
}

fn processes(wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| command_line(*pid).is_some_and(|line| wanted(&line)) && is_alive(*pid)).collect()
}

fn command_line(pid: u32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0);
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// The ids of the node's containers, as containerd keeps them.
fn containers(files: &Files) -> Vec<OsString> {
    let tasks = files.home().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    fs::read_dir(tasks).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}

/// Of control groups: one directory each in version 1, the root in version 2.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).chain([root.clone()]).collect()
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

fn remove_group(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path());
    }
    let _ = fs::remove_dir(group);
}

const POLL: Duration = Duration::from_millis(20);
const MADE: &str = "made";

/// Makes the mounts and the network, then reaps whoever is orphaned. `$1` is the node's directory, `$2` its address.
/// The bridge has no ports: it is there to have an address. What the node's programs write to fixed places (leases of
/// addresses, device plugins, logs, sockets) goes to file systems of the sandbox's own.
const INIT: &str = r#"set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
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
