//! Runs programs beside us: their output goes to a file, and they end when we do, whatever happens to us.
//!
//! # Guarantees
//! - A [`Process`] that is dropped is killed and reaped, also while a panic unwinds.
//! - A program survives neither the end of this process nor SIGKILL to it, where `setpriv` (util-linux) is on PATH.
//!   Elsewhere only the ordinary ends (return, panic, [`Process::stop`]) are covered.
//! - Ctrl-C on the terminal reaches this process only, so that it can end its programs in the right order;
//!   [`Program::interruptible`] and [`Program::detached`] choose otherwise.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep, timeout_at};

/// A program to be started: its path, arguments and surroundings.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    tie: Tie,
}

impl Program {
    /// The program at `path`, without arguments, with our environment and working directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new(), directory: None, tie: Tie::Ours }
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), Some(value.into())));
        self
    }

    /// Hides one of our environment variables from the program.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.env.push((key.into(), None));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Lets Ctrl-C on the terminal reach the program and its own children too: for a compiler, say.
    #[must_use]
    pub fn interruptible(mut self) -> Self {
        self.tie = Tie::Interruptible;
        self
    }

    /// Lets the program outlive this process. Its [`Process`] still kills it when dropped, unless
    /// [`Process::leave_running`] is called.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.tie = Tie::Detached;
        self
    }

    /// Starts the program, with stdout and stderr appended to the file `log` and nothing on stdin.
    pub fn spawn(self, log: &Path) -> anyhow::Result<Process> {
        ensure!(
            self.path.components().count() == 1 || self.path.exists(),
            "there is no program {}",
            self.path.display()
        );
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let name = self.name();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawn_from_lasting_thread(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name, program: self, child: Some(child), log: log.to_owned() })
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    fn command(&self) -> Command {
        let mut command = if self.tie != Tie::Detached && setpriv_works() {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--pdeathsig", "KILL", "--"]).arg(&self.path);
            setpriv
        } else {
            Command::new(&self.path)
        };
        command.args(&self.args);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.tie != Tie::Interruptible {
            command.process_group(0);
        }
        command
    }
}

/// How a program's life hangs on ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tie {
    Ours,
    Interruptible,
    Detached,
}

/// A running program. Dropping it kills the program.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// As it was started.
    program: Program,
    /// `None` only once [`Process::leave_running`] has given the program up.
    child: Option<Child>,
    log: PathBuf,
}

impl Process {
    /// The file name of the program, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far (stdout and stderr as they came).
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// Waits for its end, for as long as it takes.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }

    /// Waits for its end; `None` when it still runs after `within`.
    pub async fn wait_within(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        match timeout_at(Instant::now() + within, self.wait()).await {
            Ok(status) => status.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Sends a signal by its name (`TERM`, `INT`, `STOP`, …). A process that has ended gets none.
    pub fn signal(&mut self, signal: &str) -> anyhow::Result<()> {
        if self.child.is_none() || self.try_wait()?.is_some() {
            return Ok(());
        }
        send_signal(self.pid(), signal)
    }

    /// SIGTERM, and after `grace` SIGKILL. Returns how it ended.
    pub async fn stop(mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        self.signal("TERM")?;
        match self.wait_within(grace).await? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// SIGKILL at once. Returns how it ended, which is not by SIGKILL when it had ended before.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().context("the program was left running")?;
        child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Starts the program again as it was started at first, into the same log; ends it before that if it still runs.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        *self = self.program.clone().spawn(&self.log)?;
        Ok(())
    }

    /// Gives the program up: it goes on running on its own.
    pub fn leave_running(mut self) {
        self.child = None;
    }

    /// The error that says that it ended by itself, with the last lines that it printed.
    #[must_use]
    pub fn ended_early(&self, status: ExitStatus) -> anyhow::Error {
        anyhow::anyhow!(
            "{} ended by itself ({status}); its last lines:\n{}",
            self.name,
            tail(&self.log(), 20)
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only for a process that is no more, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Repeats `attempt` until it succeeds; after `within`, fails with `what` and the last attempt's error.
///
/// Not `AsyncFnMut`: a future that awaits one is not `Send`, as far as the compiler can tell.
pub async fn wait_for<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    let mut last = None;
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = last.or_else(|| Some(anyhow::anyhow!("no answer"))),
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}: {:#}", within.as_secs_f32(), last.context("never tried")?);
        }
        sleep(POLL).await;
    }
}

/// Sends a signal by its name to any process.
pub fn send_signal(pid: u32, signal: &str) -> anyhow::Result<()> {
    // The shell's own `kill`: there need be no program of that name.
    let output = Command::new("sh")
        .args(["-c", r#"kill -s "$0" "$1""#, signal, &pid.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run sh")?;
    ensure!(
        output.status.success(),
        "cannot send SIG{signal} to process {pid}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Spawns from a thread that lives as long as this process: the parent-death signal fires when the spawning
/// *thread* ends, and a test's thread ends long before the clusters that others share.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                // The asker waits below until it has its answer.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = channel();
    spawner.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

type Request = (Command, Sender<io::Result<Child>>);

fn setpriv_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use std::cell::Cell;

    fn sh(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    fn runs(pid: u32) -> bool {
        Path::new("/proc").join(pid.to_string()).exists()
    }

    #[tokio::test]
    async fn output_of_both_kinds_is_kept_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut process = sh("echo one; echo two >&2; echo $WORD").env("WORD", "three").spawn(&log).unwrap();
        assert!(process.wait_within(Duration::from_secs(10)).await.unwrap().unwrap().success());
        assert_eq!(process.log(), "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn stop_lets_a_program_finish_its_work() {
        let directory = tempfile::tempdir().unwrap();
        let process = sh("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
            .spawn(&directory.path().join("log"))
            .unwrap();
        wait_for("the trap", Duration::from_secs(10), async || {
            ensure!(process.log().contains("up"), "silent");
            Ok(())
        })
        .await
        .unwrap();
        let log = process.log_path().to_owned();
        assert_eq!(process.stop(Duration::from_secs(10)).await.unwrap().code(), Some(7));
        assert_eq!(fs::read_to_string(log).unwrap(), "up\nbye\n");
    }

    #[tokio::test]
    async fn stop_kills_a_program_that_ignores_sigterm() {
        use std::os::unix::process::ExitStatusExt as _;
        let directory = tempfile::tempdir().unwrap();
        let process = sh("trap '' TERM; echo up; while :; do sleep 0.05; done")
            .spawn(&directory.path().join("log"))
            .unwrap();
        wait_for("the trap", Duration::from_secs(10), async || {
            ensure!(process.log().contains("up"), "silent");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(process.stop(Duration::from_millis(300)).await.unwrap().signal(), Some(9));
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let process = sh("sleep 60").spawn(&directory.path().join("log")).unwrap();
        let pid = process.pid();
        assert!(runs(pid));
        drop(process);
        assert!(!runs(pid));
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut process = std::thread::spawn(move || sh("sleep 60").spawn(&log).unwrap()).join().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(process.try_wait().unwrap().is_none());
    }

    #[tokio::test]
    async fn an_early_end_shows_the_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = sh("echo port taken; exit 3").spawn(&directory.path().join("log")).unwrap();
        let status = process.wait_within(Duration::from_secs(10)).await.unwrap().unwrap();
        let error = process.ended_early(status).to_string();
        assert_eq!(error, "sh ended by itself (exit status: 3); its last lines:\nport taken");
    }

    #[tokio::test]
    async fn waiting_in_vain_tells_the_last_reason() {
        let tries = Cell::new(0);
        let error = wait_for("the moon", Duration::from_millis(200), async || {
            tries.set(tries.get() + 1);
            bail!("still dark") as anyhow::Result<()>
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "waited 0.2 s for the moon: still dark");
        assert!(tries.get() > 1);
    }

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Program::new("/nowhere/at/all").spawn(&directory.path().join("log")).unwrap_err();
        assert_eq!(error.to_string(), "there is no program /nowhere/at/all");
    }

    #[test]
    fn tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
        assert_eq!(tail("", 2), "");
    }
}
