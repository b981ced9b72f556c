//! A certificate given by the user or by cert-manager, as two files.
//!
//! Polled, because kubelet swaps a link above mounted files and watches on the files themselves go deaf.
use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::resolver::{CertificateError, HotCert};

/// Where the two files are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// Why the files were not taken over.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One of them can't be read.
    #[error("reading {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What they hold is not a certificate with its key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Follows the files: whatever valid pair they hold is published within 10 seconds, until `cancel`.
#[derive(Debug)]
pub struct Follower {
    files: Files,
    hot: Arc<HotCert>,
    published: Vec<u8>,
}

impl Follower {
    /// Publishes what the files hold now.
    pub async fn start(files: Files, hot: Arc<HotCert>) -> Result<Self, FilesError> {
        let mut follower = Self { files, hot, published: Vec::new() };
        follower.look().await?;
        Ok(follower)
    }

    /// Publishes every later change.
    pub async fn run(mut self, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            match self.look().await {
                Ok(true) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate reloaded");
                }
                Ok(false) => {}
                // Also seen between the writing of one file and of the other: the next look finds both.
                Err(error) => tracing::warn!(%error, "certificate not reloaded; the present one stays"),
            }
        }
    }

    /// Whether something new was published.
    async fn look(&mut self) -> Result<bool, FilesError> {
        let chain = read(&self.files.certificate).await?;
        let key = read(&self.files.key).await?;
        let seen =
            [digest(&SHA256, &chain), digest(&SHA256, &key)].map(|hash| hash.as_ref().to_vec()).concat();
        if seen == self.published {
            return Ok(false);
        }
        self.hot.publish(&chain, &key)?;
        self.published = seen;
        Ok(true)
    }
}

async fn read(path: &PathBuf) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let read = tokio::fs::read(path).await;
    read.map(Zeroizing::new).map_err(|source| FilesError::Read { path: path.clone(), source })
}

const POLL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_new_pair_is_taken_and_a_torn_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        let write = |path: &PathBuf, text: &str| std::fs::write(path, text).unwrap();
        let issue = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        let hot = Arc::new(HotCert::default());
        assert!(matches!(Follower::start(files.clone(), hot.clone()).await, Err(FilesError::Read { .. })));

        let ((first, first_key), (second, second_key)) = (issue(), issue());
        write(&files.certificate, &first);
        write(&files.key, &first_key);
        let mut follower = Follower::start(files.clone(), hot.clone()).await.unwrap();
        assert!(hot.is_loaded());
        assert!(!follower.look().await.unwrap());
        write(&files.certificate, &second);
        assert!(matches!(follower.look().await, Err(FilesError::Certificate(_))));
        write(&files.key, &second_key);
        assert!(follower.look().await.unwrap());
    }
}
