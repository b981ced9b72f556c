//! Writes and reads docker-archives: a tar of `manifest.json`, the configuration and the layers.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::Archive;
use super::key::hex;
use crate::process::tail;

/// What a container of an image runs, and in which surroundings.
#[derive(Clone, Debug)]
pub(super) struct Configuration<'a> {
    /// By number; empty is root, which only a build is.
    pub(super) user: &'a str,
    pub(super) entrypoint: &'a [&'a str],
    pub(super) environment: &'a [&'a str],
}

impl Configuration<'_> {
    fn json(&self, layer: &str) -> Value {
        json!({
            "architecture": architecture(std::env::consts::ARCH),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": self.user,
                "Env": self.environment,
                "Entrypoint": self.entrypoint,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
        })
    }
}

/// Packs the directory `root` into an image of one layer. Equal directories give equal files.
pub(super) fn write(
    root: &Path,
    configuration: &Configuration,
    reference: &str,
    target: &Path,
) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(target.parent().context("an image needs a directory")?)?;
    let layer = directory.path().join("layer.tar");
    tar(
        ["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"],
        root,
        &layer,
    )?;
    let digest = sha256(&layer)?;
    fs::rename(&layer, directory.path().join(format!("{digest}.tar")))?;
    let configuration = serde_json::to_vec(&configuration.json(&digest))?;
    let name = format!("{}.json", hex(aws_lc_rs::digest::digest(&SHA256, &configuration).as_ref()));
    fs::write(directory.path().join(&name), configuration)?;
    let manifest = json!([{"Config": name, "RepoTags": [reference], "Layers": [format!("{digest}.tar")]}]);
    fs::write(directory.path().join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    tar(
        ["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"],
        directory.path(),
        target,
    )
}

impl Archive {
    /// The image's configuration: `config`, `architecture` and so on, as the OCI image specification names them.
    pub fn configuration(&self) -> anyhow::Result<Value> {
        let name =
            self.manifest()?["Config"].as_str().context("the manifest names no configuration")?.to_owned();
        Ok(serde_json::from_slice(&self.member(&name)?)?)
    }

    /// Unpacks the image's file system into a directory. (None of our images removes in one layer what another has.)
    pub fn unpack(&self, directory: &Path) -> anyhow::Result<()> {
        for layer in self.layers()? {
            let mut unpacking = Command::new("tar")
                .args(["--extract", "--file=-", "--directory"])
                .arg(directory)
                .stdin(Stdio::piped())
                .spawn()
                .context("there is no tar")?;
            let mut stdin = unpacking.stdin.take().context("tar reads nothing")?;
            self.read_member(&layer, |bytes| stdin.write_all(bytes))?;
            drop(stdin);
            ensure!(unpacking.wait()?.success(), "tar cannot unpack {layer}");
        }
        Ok(())
    }

    /// How many bytes the layers have, as they are unpacked and as a registry would transfer them (gzip).
    pub fn sizes(&self) -> anyhow::Result<Sizes> {
        let mut sizes = Sizes { uncompressed: 0, compressed: 0 };
        for layer in self.layers()? {
            let mut gzip = Command::new("gzip")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("there is no gzip")?;
            let mut stdin = gzip.stdin.take().context("gzip reads nothing")?;
            let mut stdout = gzip.stdout.take().context("gzip writes nothing")?;
            let counter = std::thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
            self.read_member(&layer, |bytes| {
                sizes.uncompressed += bytes.len() as u64;
                stdin.write_all(bytes)
            })?;
            drop(stdin);
            ensure!(gzip.wait()?.success(), "gzip failed");
            sizes.compressed += counter.join().map_err(|_| anyhow::anyhow!("counting failed"))??;
        }
        Ok(sizes)
    }

    fn layers(&self) -> anyhow::Result<Vec<String>> {
        Ok(serde_json::from_value(self.manifest()?["Layers"].take())?)
    }

    fn manifest(&self) -> anyhow::Result<Value> {
        let mut manifest: Value = serde_json::from_slice(&self.member("manifest.json")?)?;
        Ok(manifest[0].take())
    }

    fn member(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut contents = Vec::new();
        self.read_member(name, |bytes| {
            contents.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(contents)
    }

    /// Reads a member in pieces: a layer may be larger than what one likes to hold.
    fn read_member(&self, name: &str, mut piece: impl FnMut(&[u8]) -> io::Result<()>) -> anyhow::Result<()> {
        let mut tar = Command::new("tar")
            .args(["--extract", "--to-stdout", "--file"])
            .arg(&self.path)
            // Some writers begin their names with ./, and some do not.
            .args(["--wildcards", "--no-anchored", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("there is no tar")?;
        let mut stdout = tar.stdout.take().context("tar writes nothing")?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match stdout.read(&mut buffer)? {
                0 => break,
                length => piece(&buffer[..length])?,
            }
        }
        ensure!(tar.wait()?.success(), "{} has no {name}", self.path.display());
        Ok(())
    }
}

/// The sizes of an image in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of the layers as they are.
    pub uncompressed: u64,
    /// Of the layers as gzip packs them.
    pub compressed: u64,
}

/// The architecture by the name that images have for it.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Packs the contents of `directory` into the file `target`.
fn tar<'a>(
    arguments: impl IntoIterator<Item = &'a str>,
    directory: &Path,
    target: &Path,
) -> anyhow::Result<()> {
    let contents = entries(directory)?;
    let output = Command::new("tar")
        .args(arguments)
        .arg("--file")
        .arg(target)
        .arg("--directory")
        .arg(directory)
        .arg("--")
        .args(contents)
        .stdin(Stdio::null())
        .output()
        .context("there is no tar")?;
    ensure!(output.status.success(), "tar failed: {}", tail(&String::from_utf8_lossy(&output.stderr), 5));
    Ok(())
}

/// What is in a directory, by name: containerd finds the manifest only where no `./` stands before it.
fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        entries.push(entry?.file_name().into());
    }
    entries.sort_unstable();
    Ok(entries)
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            length => context.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::image::USER;
    use std::os::unix::fs::PermissionsExt as _;

    fn image(directory: &Path, name: &str) -> Archive {
        let root = directory.join(format!("{name}.root"));
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/true"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("bin/true"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.join(name);
        let configuration = Configuration { user: USER, entrypoint: &["/bin/true"], environment: &["A=b"] };
        write(&root, &configuration, "idtoken.test/true:1", &path).unwrap();
        Archive { path, reference: "idtoken.test/true:1".to_owned() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path(), "image.tar");
        let configuration = image.configuration().unwrap();
        assert_eq!(configuration["config"]["User"], "65532:65532");
        assert_eq!(configuration["config"]["Entrypoint"], json!(["/bin/true"]));
        assert_eq!(configuration["config"]["Env"], json!(["A=b"]));
        assert_eq!(image.manifest().unwrap()["RepoTags"], json!(["idtoken.test/true:1"]));
        let unpacked = directory.path().join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        image.unpack(&unpacked).unwrap();
        assert_eq!(fs::read_to_string(unpacked.join("bin/true")).unwrap(), "#!/bin/sh\n");
        assert_eq!(unpacked.join("bin/true").metadata().unwrap().permissions().mode() & 0o777, 0o755);
        let sizes = image.sizes().unwrap();
        assert_eq!(sizes.uncompressed, 10240);
        assert!(sizes.compressed < 400, "{sizes:?}");
    }

    #[test]
    fn the_layer_is_what_the_configuration_says() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path(), "image.tar");
        let layer = image.layers().unwrap().remove(0);
        let id = image.configuration().unwrap()["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
        assert_eq!(format!("sha256:{}", layer.strip_suffix(".tar").unwrap()), id);
        let copy = directory.path().join("layer");
        fs::write(&copy, image.member(&layer).unwrap()).unwrap();
        assert_eq!(format!("sha256:{}", sha256(&copy).unwrap()), id);
    }

    #[test]
    fn equal_directories_give_equal_files() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (image(directory.path(), "one"), image(directory.path(), "two"));
        assert_eq!(fs::read(one.path).unwrap(), fs::read(two.path).unwrap());
    }

    #[test]
    fn architectures_have_their_names() {
        assert_eq!(architecture("x86_64"), "amd64");
        assert_eq!(architecture("aarch64"), "arm64");
        assert_eq!(architecture("riscv64"), "riscv64");
    }

    #[test]
    fn a_file_that_is_no_image_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("empty.tar");
        let nothing = directory.path().join("nothing");
        fs::create_dir(&nothing).unwrap();
        fs::write(nothing.join("a"), "").unwrap();
        tar(["--create"], &nothing, &path).unwrap();
        let error = Archive { path: path.clone(), reference: String::new() }.configuration().unwrap_err();
        assert_eq!(error.to_string(), format!("{} has no manifest.json", path.display()));
    }
}
