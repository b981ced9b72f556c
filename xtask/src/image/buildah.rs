//! buildah, with a storage of its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::store::empty;
use crate::process::{Program, tail};

/// A storage of buildah's: `<directory>/<key>` holds the build image with that key, and what builds on it have cached.
#[derive(Debug)]
pub(super) struct Buildah {
    storage: PathBuf,
}

/// What to build.
#[derive(Debug)]
pub(super) struct Build<'a> {
    /// The directory with the Dockerfile.
    pub(super) context: &'a Path,
    /// The image that stands for the Dockerfile's `BUILD_IMAGE`.
    pub(super) base: &'a str,
    /// What is mounted during the build: from, to, how.
    pub(super) volumes: &'a [(&'a Path, &'a str, &'a str)],
    /// The name of the finished image.
    pub(super) reference: &'a str,
    /// The docker-archive that it is written to.
    pub(super) target: &'a Path,
}

impl Buildah {
    /// The storage for `key`. Those for other keys are removed, and whatever an interrupted build has left in this one.
    pub(super) fn open(directory: &Path, key: &str) -> anyhow::Result<Self> {
        ensure!(
            fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0),
            "building an image here needs root (elsewhere: docker build .)"
        );
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name() != key {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let buildah = Self { storage: directory.join(key) };
        fs::create_dir_all(buildah.temporary())?;
        buildah.bound_cache()?;
        buildah.run(&["rm", "--all"])?;
        buildah.run(&["rmi", "--prune"])?;
        Ok(buildah)
    }

    /// Whether an image is there.
    pub(super) fn has(&self, reference: &str) -> anyhow::Result<bool> {
        let output = self.command(&["inspect", "--type", "image", reference]).output().context(NO_BUILDAH)?;
        Ok(output.status.success())
    }

    /// Takes an image from a docker-archive.
    pub(super) fn load(&self, archive: &Path) -> anyhow::Result<()> {
        self.run(&["pull", "--quiet", &format!("docker-archive:{}", archive.display())])
    }

    /// Builds an image into a docker-archive.
    pub(super) fn build(&self, build: &Build) -> anyhow::Result<()> {
        self.run_dockerfile(build)?;
        let target = format!("docker-archive:{}:{}", build.target.display(), build.reference);
        self.run(&["push", "--quiet", build.reference, &target])?;
        self.run(&["rmi", build.reference])?;
        self.run(&["rmi", "--prune"])
    }

    fn run_dockerfile(&self, build: &Build) -> anyhow::Result<()> {
        let log = self.storage.join("build.log");
        let _ = fs::remove_file(&log);
        // In a namespace of their own, cargo and its compilers end together with buildah, and that with us.
        let mut program =
            Program::new("unshare").args(["--pid", "--fork", "--kill-child", "--mount-proc", "buildah"]);
        program = program.args(self.global_arguments()).args(arguments(build));
        program = program.env("TMPDIR", self.temporary()).interruptible();
        let mut running = program.spawn(&log)?;
        let status = loop {
            match running.try_wait()? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        if status.success() {
            return Ok(());
        }
        bail!(
            "buildah failed ({status}). The end of what it said (all of it: {}):\n{}",
            log.display(),
            tail(&running.log(), 30)
        )
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.command(arguments).output().context(NO_BUILDAH)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "buildah {} failed: {}", arguments.join(" "), tail(&said, 10));
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.args(self.global_arguments()).args(arguments);
        command.env("TMPDIR", self.temporary()).stdin(Stdio::null());
        command
    }

    /// vfs: the one driver that works on every file system, and in a container.
    fn global_arguments(&self) -> [OsString; 6] {
        [
            "--storage-driver".into(),
            "vfs".into(),
            "--root".into(),
            self.storage.join("root").into(),
            "--runroot".into(),
            self.storage.join("run").into(),
        ]
    }

    /// Where buildah keeps, among other things, the mounts of `type=cache`.
    fn temporary(&self) -> PathBuf {
        self.storage.join("tmp")
    }

    /// Cargo never removes what it has built of older versions: starts afresh before that is too much.
    fn bound_cache(&self) -> anyhow::Result<()> {
        let output = Command::new("du").args(["-s", "--block-size=1M"]).arg(self.temporary()).output()?;
        let megabytes = String::from_utf8_lossy(&output.stdout);
        let megabytes = megabytes.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        if megabytes.is_none_or(|megabytes| megabytes > LIMIT_MEGABYTES) {
            empty(&self.temporary())?;
        }
        Ok(())
    }
}

fn arguments(build: &Build) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "bud".into(),
        // The one isolation that needs neither a container runtime nor namespaces of its own.
        "--isolation=chroot".into(),
        "--pull-never".into(),
        "--layers=false".into(),
        // The time of the image's making would change its digest.
        "--timestamp=0".into(),
        format!("--build-arg=BUILD_IMAGE={}", build.base).into(),
        format!("--tag={}", build.reference).into(),
    ];
    for (from, to, how) in build.volumes {
        arguments.push(format!("--volume={}:{to}:{how}", from.display()).into());
    }
    arguments.push(build.context.into());
    arguments
}

const NO_BUILDAH: &str = "there is no buildah";
const LIMIT_MEGABYTES: u64 = 3000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_reaches_no_registry_and_mounts_what_it_needs() {
        let build = Build {
            context: Path::new("/src"),
            base: "idtoken.test/build:1",
            volumes: &[(Path::new("/rust"), "/opt/rust", "ro"), (Path::new("/crates"), "/opt/crates", "rw")],
            reference: "idtoken.test/x:1",
            target: Path::new("/out.tar"),
        };
        assert_eq!(
            arguments(&build),
            [
                "bud",
                "--isolation=chroot",
                "--pull-never",
                "--layers=false",
                "--timestamp=0",
                "--build-arg=BUILD_IMAGE=idtoken.test/build:1",
                "--tag=idtoken.test/x:1",
                "--volume=/rust:/opt/rust:ro",
                "--volume=/crates:/opt/crates:rw",
                "/src",
            ]
        );
    }
}
