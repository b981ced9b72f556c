//! A node comes, serves people outside its network, and goes without a trace, also after a crash.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use xtask::node::Node;
use xtask::process::send_signal;
use xtask::tools::{Tool, Tools};

const NAME: &str = "comes-and-goes";

fn node(action: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(["node", action, "--name", NAME]).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn kubectl(node: &Node, args: &[&str]) -> String {
    let tools = Tools::find(&[Tool::Kubectl]).unwrap();
    let output = Command::new(tools.path(Tool::Kubectl))
        .args(args)
        .env("KUBECONFIG", node.kubeconfig())
        .output()
        .unwrap();
    stdout(&output)
}

/// Where the programs of a node write by themselves, if nobody prevents it.
const FIXED_PLACES: [&str; 5] =
    ["/var/lib/cni", "/var/lib/kubelet", "/usr/libexec/kubernetes", "/etc/cni", "/run/containerd"];

/// All files in the fixed places.
fn fixed_places() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = FIXED_PLACES.map(PathBuf::from).into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            files.push(entry.path());
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// The first process of the node's sandbox.
fn sandbox(node: &Node) -> u32 {
    let line = format!("sh\0{}/init.sh\0", node.directory().display());
    let mut pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|p| p.file_name().to_str()?.parse().ok());
    let is_sandbox = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found.starts_with(line.as_bytes()))
    };
    pids.find(is_sandbox).unwrap()
}

/// What is left of a node anywhere on the machine: processes, mounts, control groups of `container`.
fn traces(node: &Node, container: &str) -> Vec<String> {
    let home = format!("{}/", node.directory().display());
    let mut traces: Vec<String> = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&home) {
            traces.push(format!("process {}: {line}", process.file_name().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(&home)).map(|line| format!("mount {line}")));
    groups(Path::new("/sys/fs/cgroup"), container, &mut traces);
    if node.directory().exists() {
        traces.push(format!("directory {home}"));
    }
    traces
}

fn groups(directory: &Path, name: &str, traces: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        if entry.file_name().to_string_lossy().contains(name) {
            traces.push(format!("control group {}", entry.path().display()));
        }
        groups(&entry.path(), name, traces);
    }
}

/// Runs a pod and gives the id of its container.
fn run_pod(node: &Node) -> String {
    let pod = [
        "run",
        "sleeper",
        "--image=idtoken.test/shell:1",
        "--image-pull-policy=Never",
        "--command",
        "--",
        "sleep",
        "3600",
    ];
    kubectl(node, &pod);
    kubectl(node, &["wait", "--for=condition=Ready", "pod/sleeper", "--timeout=60s"]);
    let id = kubectl(
        node,
        &["get", "pod", "sleeper", "-o", "jsonpath={.status.containerStatuses[0].containerID}"],
    );
    id.strip_prefix("containerd://").unwrap().to_owned()
}

#[test]
#[ignore = "tier node: needs root"]
fn it_goes_without_a_trace_also_after_a_crash() {
    let handle = Node::named(NAME).unwrap();
    node("down");
    let before = fixed_places();
    let up = stdout(&node("up"));
    assert!(up.contains("The node \"comes-and-goes\" is running."), "{up}");
    assert!(up.contains("End it with: cargo xtask node down --name comes-and-goes"), "{up}");
    assert_eq!(stdout(&node("env")), format!("export KUBECONFIG='{}'\n", handle.kubeconfig().display()));
    let container = run_pod(&handle);
    assert_eq!(kubectl(&handle, &["exec", "sleeper", "--", "echo", "inside"]), "inside\n");
    let running = traces(&handle, &container);
    assert!(running.iter().any(|trace| trace.starts_with("process ")), "{running:?}");
    assert!(running.iter().any(|trace| trace.starts_with("control group ")), "{running:?}");

    assert_eq!(stdout(&node("down")), "The node \"comes-and-goes\" is ended.\n");
    assert_eq!(traces(&handle, &container), Vec::<String>::new());
    assert_eq!(stdout(&node("down")), "There is no node \"comes-and-goes\".\n");

    stdout(&node("up"));
    let container = run_pod(&handle);
    send_signal(sandbox(&handle), "KILL").unwrap();
    let env = node("env");
    assert!(!env.status.success(), "a node that has crashed is not running");
    assert!(
        String::from_utf8_lossy(&env.stderr)
            .contains("start it with: cargo xtask node up --name comes-and-goes")
    );
    assert_eq!(stdout(&node("down")), "The node \"comes-and-goes\" is ended.\n");
    assert_eq!(traces(&handle, &container), Vec::<String>::new());

    // A start that is killed in its midst has told nobody what it has begun.
    let mut start =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(["node", "up", "--name", NAME]).spawn().unwrap();
    while !handle.directory().join("made").exists() {
        assert_eq!(start.try_wait().unwrap(), None, "it ended before it had begun");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.kill().unwrap();
    start.wait().unwrap();
    assert_eq!(stdout(&node("down")), "The node \"comes-and-goes\" is ended.\n");
    assert_eq!(traces(&handle, &container), Vec::<String>::new());
    assert_eq!(fixed_places(), before);
}
