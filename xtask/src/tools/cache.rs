//! Where tools are kept between runs: `<cache>/tools/<name>-<version>/<name>`.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::version::Version;
use super::{Tool, is_executable};

/// The directory for everything that outlives `target/`: `idtoken-operator` under `IDTOKEN_CACHE_DIR`,
/// `XDG_CACHE_HOME` or `~/.cache`.
pub fn cache_directory() -> anyhow::Result<PathBuf> {
    let base = cache_base(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from));
    let base = base.context("no place for the cache: set IDTOKEN_CACHE_DIR")?;
    Ok(std::path::absolute(base)?.join("idtoken-operator"))
}

/// Holds off every other process that would make the same thing in a directory of the cache, until the result is dropped.
pub(crate) fn lock(directory: &Path, what: &str) -> anyhow::Result<File> {
    let path = directory.join(format!("{what}.lock"));
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => return Ok(lock),
        Err(TryLockError::WouldBlock) => eprintln!("waiting for another process that is making {what} …"),
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the cache"),
    }
    lock.lock().context("cannot lock the cache")?;
    Ok(lock)
}

/// A relative `XDG_CACHE_HOME` is to be ignored, says its specification.
fn cache_base(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("IDTOKEN_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").filter(|path| path.is_absolute()))
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
}

/// The cached tools.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
}

impl Cache {
    pub(super) fn open() -> anyhow::Result<Self> {
        Self::at(cache_directory()?.join("tools"))
    }

    pub(super) fn at(directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tool in the version that we build, else in the newest patch of the same minor version.
    pub(super) fn lookup(&self, tool: Tool) -> Option<PathBuf> {
        let wanted = Version::parse(tool.version())?;
        let prefix = format!("{}-", tool.name());
        let mut versions: Vec<Version> = fs::read_dir(&self.directory)
            .ok()?
            .filter_map(|entry| Version::parse(entry.ok()?.file_name().to_str()?.strip_prefix(&prefix)?))
            .filter(|version| version.same_minor(wanted) && is_executable(&self.path(tool, *version)))
            .collect();
        versions.sort_by_key(|version| (*version == wanted, *version));
        versions.last().map(|version| self.path(tool, *version))
    }

    /// Puts a finished program in its place, at once and whole.
    pub(super) fn store(&self, tool: Tool, version: Version, program: &Path) -> anyhow::Result<PathBuf> {
        let path = self.path(tool, version);
        fs::create_dir_all(path.parent().unwrap_or(&self.directory))?;
        fs::rename(program, &path).with_context(|| format!("cannot put {} into the cache", tool.name()))?;
        Ok(path)
    }

    /// Holds off every other process that would make the same thing, until the result is dropped.
    pub(super) fn lock(&self, what: &str) -> anyhow::Result<File> {
        lock(&self.directory, what)
    }

    /// How long the last build of a tool took here.
    pub(super) fn last_build_time(&self, tool: Tool) -> Option<Duration> {
        let seconds = fs::read_to_string(self.build_time_file(tool)).ok()?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    }

    /// Remembers how long a build took. Only a courtesy to the next one: failing to is no failure.
    pub(super) fn remember_build_time(&self, tool: Tool, duration: Duration) {
        let _ = fs::write(self.build_time_file(tool), format!("{}\n", duration.as_secs()));
    }

    fn build_time_file(&self, tool: Tool) -> PathBuf {
        self.directory.join(format!("{}.build-seconds", tool.name()))
    }

    fn path(&self, tool: Tool, version: Version) -> PathBuf {
        self.directory.join(format!("{}-{version}", tool.name())).join(tool.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(cache: &Cache, tool: Tool, version: Version) {
        let made = cache.directory().join("made");
        fs::write(&made, "").unwrap();
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
        cache.store(tool, version, &made).unwrap();
    }

    #[test]
    fn the_cache_is_where_the_user_wants_it() {
        let base = |variables: &[(&str, &str)]| {
            let of =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            cache_base(of)
        };
        let (home, xdg) = (("HOME", "/home/me"), ("XDG_CACHE_HOME", "/var/cache"));
        assert_eq!(base(&[home, xdg, ("IDTOKEN_CACHE_DIR", "here")]), Some("here".into()));
        assert_eq!(base(&[home, xdg]), Some("/var/cache".into()));
        assert_eq!(base(&[home, ("XDG_CACHE_HOME", "relative")]), Some("/home/me/.cache".into()));
        assert_eq!(base(&[]), None);
    }

    #[test]
    fn lookup_prefers_the_pinned_version_then_the_newest_patch() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().to_owned()).unwrap();
        assert_eq!(cache.lookup(Tool::KubeApiserver), None);
        put(&cache, Tool::KubeApiserver, Version(1, 35, 9));
        assert_eq!(cache.lookup(Tool::KubeApiserver), None);
        put(&cache, Tool::KubeApiserver, Version(1, 36, 0));
        put(&cache, Tool::KubeApiserver, Version(1, 36, 10));
        let of = |version: &str| Some(directory.path().join(version).join("kube-apiserver"));
        assert_eq!(cache.lookup(Tool::KubeApiserver), of("kube-apiserver-1.36.10"));
        put(&cache, Tool::KubeApiserver, Version(1, 36, 3));
        assert_eq!(cache.lookup(Tool::KubeApiserver), of("kube-apiserver-1.36.3"));
        assert_eq!(cache.lookup(Tool::Etcd), None);
    }

    #[test]
    fn a_directory_without_its_program_is_no_tool() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().to_owned()).unwrap();
        fs::create_dir(directory.path().join("etcd-3.6.16")).unwrap();
        assert_eq!(cache.lookup(Tool::Etcd), None);
    }

    #[test]
    fn the_second_to_lock_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().to_owned()).unwrap();
        let first = cache.lock("etcd").unwrap();
        let second = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.lock("etcd").unwrap());
            std::thread::sleep(Duration::from_millis(200));
            assert!(!waiting.is_finished());
            drop(first);
            waiting.join().unwrap()
        });
        drop(second);
    }

    #[test]
    fn build_times_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().to_owned()).unwrap();
        assert_eq!(cache.last_build_time(Tool::Helm), None);
        cache.remember_build_time(Tool::Helm, Duration::from_millis(61_900));
        assert_eq!(cache.last_build_time(Tool::Helm), Some(Duration::from_secs(61)));
    }
}
