//! `cargo xtask image`.

use clap::{Args, ValueEnum};

use super::Archive;
use super::archive::Sizes;

/// Make the images that a node runs, without a registry of images
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask image                        the operator's image; prints its file and its sizes
  cargo xtask image shell python
  ctr -n k8s.io images import \"$(cargo xtask image --quiet)\"
  docker load -i \"$(cargo xtask image --quiet)\"

Needs Debian or Ubuntu, and root: the build image is made of Debian's packages and of this machine's Rust toolchain, and
Debian's buildah builds the Dockerfile on it. Where a registry of images can be reached, `docker build .` builds the same
operator. What is finished is in ~/.cache/idtoken-operator/images (IDTOKEN_CACHE_DIR moves it) and is made again only when
something that goes into it has changed.")]
pub struct ImageArgs {
    /// Which images
    #[arg(value_enum, default_values_t = [Image::Product])]
    images: Vec<Image>,
    /// Print only the files
    #[arg(long, short)]
    quiet: bool,
}

/// An image that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Image {
    /// The operator, from the Dockerfile
    Product,
    /// Does nothing, and ends on SIGTERM
    Pause,
    /// busybox
    Shell,
    /// Python with google-auth and requests; Envoy
    Python,
}

impl Image {
    fn make(self) -> anyhow::Result<Archive> {
        match self {
            Self::Product => super::product(),
            Self::Pause => super::pause(),
            Self::Shell => super::shell(),
            Self::Python => super::python(),
        }
    }
}

/// Runs `cargo xtask image`.
pub async fn run(args: ImageArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        for image in &args.images {
            let archive = image.make()?;
            if args.quiet {
                println!("{}", archive.path.display());
            } else {
                println!("{}\n  {}\n  {}", archive.reference, archive.path.display(), told(archive.sizes()?));
            }
        }
        Ok(())
    })
    .await?
}

fn told(sizes: Sizes) -> String {
    format!("{} uncompressed, {} compressed", megabytes(sizes.uncompressed), megabytes(sizes.compressed))
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_never_told_smaller_than_they_are() {
        assert_eq!(megabytes(0), "0.0 MB");
        assert_eq!(megabytes(1), "0.1 MB");
        assert_eq!(megabytes(19_999_999), "20.0 MB");
        assert_eq!(megabytes(20_000_001), "20.1 MB");
        assert_eq!(
            told(Sizes { uncompressed: 31_400_000, compressed: 12_000_000 }),
            "31.4 MB uncompressed, 12.0 MB compressed"
        );
    }
}
