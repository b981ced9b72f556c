//! The images: the operator's is small, holds nothing but what it needs, and runs as it stands; those for tests run too.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use auditable_info::audit_info_from_file;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tempfile::TempDir;
use xtask::image::{self, Archive};

/// Everything in the operator's image: mode, and path.
const CONTENTS: [&str; 11] = [
    "755 etc/",
    "644 etc/group",
    "644 etc/nsswitch.conf",
    "644 etc/passwd",
    "755 etc/ssl/",
    "755 etc/ssl/certs/",
    "644 etc/ssl/certs/ca-certificates.crt",
    "755 usr/",
    "755 usr/local/",
    "755 usr/local/bin/",
    "755 usr/local/bin/idtoken-operator",
];
const PROGRAM: &str = "/usr/local/bin/idtoken-operator";
const MAX_COMPRESSED: u64 = 20_000_000;

#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_is_small() {
    let sizes = image::product().unwrap().sizes().unwrap();
    assert!(sizes.compressed < MAX_COMPRESSED, "{sizes:?}");
    assert!(sizes.compressed > 1_000_000, "this is no operator: {sizes:?}");
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_says_who_runs_it_and_what_it_is() {
    let configuration = image::product().unwrap().configuration().unwrap();
    assert_eq!(configuration["os"], "linux");
    assert_eq!(configuration["config"]["User"], "65532:65532");
    assert_eq!(configuration["config"]["Entrypoint"], json!([PROGRAM]));
    assert_eq!(configuration["config"]["Cmd"], json!(null));
    let labels = &configuration["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.title"], "idtoken-operator");
    assert_eq!(labels["org.opencontainers.image.version"], "0.1.0");
    assert_eq!(labels["org.opencontainers.image.licenses"], "Apache-2.0");
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_holds_nothing_but_what_it_needs() {
    let root = Root::of(&image::product().unwrap());
    let mut found = Vec::new();
    list(root.path(), root.path(), &mut found);
    assert_eq!(found, CONTENTS);
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn its_program_needs_no_other_file_to_run() {
    let root = Root::of(&image::product().unwrap());
    let program = fs::read(root.path().join(&PROGRAM[1..])).unwrap();
    assert!(!segments(&program).contains(&PT_INTERP), "it asks for a dynamic linker");
    // The reader of segments is worth its answer: our own test binary has a linker.
    assert!(segments(&fs::read("/proc/self/exe").unwrap()).contains(&PT_INTERP));
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_trusts_the_authorities_that_the_web_trusts() {
    let root = Root::of(&image::product().unwrap());
    let bundle = root.path().join("etc/ssl/certs/ca-certificates.crt");
    let certificates: Vec<_> = CertificateDer::pem_file_iter(&bundle).unwrap().map(Result::unwrap).collect();
    assert!(certificates.len() > 100, "{} authorities", certificates.len());
    let names: BTreeSet<String> = certificates
        .iter()
        .map(|der| x509_parser::parse_x509_certificate(der).unwrap().1.subject().to_string())
        .collect();
    assert_eq!(names.len(), certificates.len());
    // Google's own.
    assert!(names.contains("C=US, O=Google Trust Services LLC, CN=GTS Root R1"), "{names:#?}");
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn its_program_tells_what_it_is_made_of() {
    let root = Root::of(&image::product().unwrap());
    let info = audit_info_from_file(&root.path().join(&PROGRAM[1..]), auditable_info::Limits::default());
    let crates = info.unwrap().packages;
    let names: BTreeSet<&str> = crates.iter().map(|package| package.name.as_str()).collect();
    for name in ["idtoken-operator", "kube", "rustls", "aws-lc-sys", "tokio"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    for name in ["xtask", "proptest", "auditable-info"] {
        assert!(!names.contains(name), "{name} does not belong into the product");
    }
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_runs_as_nobody_in_particular() {
    let root = Root::of(&image::product().unwrap());
    let version = root.run(&[PROGRAM, "--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), "idtoken-operator 0.1.0\n");
    let crds = root.run(&[PROGRAM, "crd"]);
    assert!(crds.status.success());
    let crds = String::from_utf8_lossy(&crds.stdout).into_owned();
    assert!(crds.contains("name: idtokenbindings.idtoken.dev"), "{crds}");
}

/// A static glibc looks names up by itself: the way that /etc/nsswitch.conf says, in /etc/hosts first, then by DNS.
#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_finds_the_api_server_by_dns() {
    let root = Root::of(&image::product().unwrap());
    let names = Names::serve();
    fs::write(root.path().join("etc/resolv.conf"), format!("nameserver {}\n", names.address)).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let _operator = root.start_controller(&server, "api.by-dns.test");
    assert!(is_called(&server), "nobody called; it says: {}", root.said());
    let asked = names.asked.recv_timeout(SOON).unwrap();
    assert_eq!(asked, "api.by-dns.test");
}

#[test]
#[ignore = "tier node: builds the image, as root"]
fn it_finds_the_api_server_in_etc_hosts() {
    let root = Root::of(&image::product().unwrap());
    fs::write(root.path().join("etc/hosts"), "127.0.0.1 api.by-file.test\n").unwrap();
    // Nobody answers there.
    fs::write(root.path().join("etc/resolv.conf"), "nameserver 127.0.99.2\n").unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let _operator = root.start_controller(&server, "api.by-file.test");
    assert!(is_called(&server), "nobody called; it says: {}", root.said());
}

#[test]
#[ignore = "tier node: makes images, as root"]
fn the_image_python_has_googles_library_and_envoy() {
    let root = Root::of(&image::python().unwrap());
    let script = "import google.auth, google.oauth2.id_token, google.auth.transport.requests; print(google.auth.__version__)";
    let python = root.run(&["/usr/bin/python3", "-c", script]);
    let error = String::from_utf8_lossy(&python.stderr);
    assert_eq!(String::from_utf8_lossy(&python.stdout), "2.62.2\n", "{error}");
    let envoy = root.run(&["/usr/local/bin/envoy", "--version"]);
    let version = String::from_utf8_lossy(&envoy.stdout).into_owned();
    assert!(version.contains("/1.40.0/"), "{version}");
}

#[test]
#[ignore = "tier node: makes images, as root"]
fn the_image_shell_has_a_shell_and_its_programs() {
    let root = Root::of(&image::shell().unwrap());
    let output = root.run(&["/bin/sh", "-c", "id -un; echo a b | cut -d' ' -f2"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "nonroot\nb\n");
}

#[test]
#[ignore = "tier node: makes images, as root"]
fn the_image_pause_ends_at_once_when_asked_to() {
    let root = Root::of(&image::pause().unwrap());
    // Where it is the first process, signals that it doesn't handle never reach it, as in a pod.
    let mut namespace = Running(
        Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "chroot", "--userspec=65532:65532"])
            .arg(root.path())
            .arg("/pause")
            .spawn()
            .unwrap(),
    );
    let children = format!("/proc/{0}/task/{0}/children", namespace.0.id());
    let pause = eventually(|| {
        let pid: u32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
        (fs::read_to_string(format!("/proc/{pid}/comm")).ok()? == "pause\n").then_some(pid)
    });
    assert!(namespace.0.try_wait().unwrap().is_none());
    xtask::process::send_signal(pause.expect("it doesn't run"), "TERM").unwrap();
    let status = eventually(|| namespace.0.try_wait().unwrap()).expect("it doesn't end");
    assert_eq!(status.code(), Some(0));
}

/// An image's file system, unpacked.
struct Root(TempDir);

impl Root {
    fn of(image: &Archive) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Who runs the program is not who owns the directory.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        image.unpack(directory.path()).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A command that sees nothing but the image, as the image's user.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.arg("--userspec=65532:65532").arg(self.path()).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The operator, with an API server of that name at the port of `server`.
    fn start_controller(&self, server: &TcpListener, name: &str) -> Running {
        let port = server.local_addr().unwrap().port();
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{name}:{port}")}}],
            "users": [{"name": "test", "user": {}}],
        });
        fs::write(self.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        self.make_devices();
        let mut command = self.command(&[PROGRAM, "controller", "--metadata-url=http://127.0.0.1:9"]);
        command.args(["--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"]);
        command
            .env("KUBECONFIG", "/kubeconfig")
            .stderr(fs::File::create(self.path().join("stderr")).unwrap());
        Running(command.spawn().unwrap())
    }

    /// What the operator has printed.
    fn said(&self) -> String {
        fs::read_to_string(self.path().join("stderr")).unwrap()
    }

    /// The sources of randomness, which a runtime gives to every container.
    fn make_devices(&self) {
        fs::create_dir(self.path().join("dev")).unwrap();
        for (name, minor) in [("random", "8"), ("urandom", "9")] {
            let device = self.path().join("dev").join(name);
            let made =
                Command::new("mknod").args(["--mode=666"]).arg(device).args(["c", "1", minor]).status();
            assert!(made.unwrap().success());
        }
    }
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A DNS server that says of every name that it is 127.0.0.1.
struct Names {
    address: String,
    asked: Receiver<String>,
}

impl Names {
    fn serve() -> Self {
        let address = "127.0.99.1";
        // resolv.conf knows no other port.
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut packet) {
                let (name, reply) = answer(&packet[..length]);
                if sender.send(name).is_err() {
                    break;
                }
                socket.send_to(&reply, asker).unwrap();
            }
        });
        Self { address: address.to_owned(), asked }
    }
}

/// The name that a DNS query asks for, and the reply to it (RFC 1035).
fn answer(query: &[u8]) -> (String, Vec<u8>) {
    let mut labels = Vec::new();
    let mut position = 12;
    while query[position] != 0 {
        let length = usize::from(query[position]);
        labels.push(String::from_utf8_lossy(&query[position + 1..=position + length]).into_owned());
        position += length + 1;
    }
    let question = &query[12..position + 5];
    let is_ipv4 = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut reply = query[..2].to_vec();
    // A response, recursion desired and available; one question, at most one answer.
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
    reply.extend(question);
    if is_ipv4 {
        // The name of the question, type A, class IN, for a minute, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    (labels.join("."), reply)
}

/// Whether somebody connects and sends an HTTP request, soon.
fn is_called(server: &TcpListener) -> bool {
    server.set_nonblocking(true).unwrap();
    let Some((mut caller, _)) = eventually(|| server.accept().ok()) else { return false };
    caller.set_nonblocking(false).unwrap();
    caller.set_read_timeout(Some(SOON)).unwrap();
    let mut method = [0; 4];
    caller.read_exact(&mut method).is_ok() && &method == b"GET "
}

fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let pause = Duration::from_millis(20);
    for _ in 0..SOON.as_millis() / pause.as_millis() {
        if let Some(value) = attempt() {
            return Some(value);
        }
        std::thread::sleep(pause);
    }
    None
}

/// The types of the segments of a 64-bit little-endian ELF program.
fn segments(program: &[u8]) -> Vec<u32> {
    assert_eq!(&program[..6], b"\x7fELF\x02\x01");
    let number = |at: usize, length: usize| -> usize {
        program[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|index| u32::try_from(number(table + index * size, 4)).unwrap()).collect()
}

/// Mode and path of everything below a directory, by path.
fn list(root: &Path, directory: &Path, found: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort_unstable();
    for entry in entries {
        let metadata = fs::symlink_metadata(&entry).unwrap();
        let slash = if metadata.is_dir() { "/" } else { "" };
        let path = entry.strip_prefix(root).unwrap().display().to_string();
        found.push(format!("{:o} {path}{slash}", metadata.permissions().mode() & 0o7777));
        if metadata.is_dir() {
            list(root, &entry, found);
        }
    }
}

const SOON: Duration = Duration::from_secs(20);
const PT_INTERP: u32 = 3;
