//! Grants from a file instead of from the cluster: read at the start, and again whenever it changes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    api::IdTokenGrant,
    plan::grant::file::{FileError, parse},
};

/// The grants of the moment.
#[derive(Clone, Debug)]
pub(super) struct Current {
    path: PathBuf,
    grants: watch::Receiver<Arc<Vec<IdTokenGrant>>>,
}

impl Current {
    /// As the file was read last.
    pub(super) fn grants(&self) -> Arc<Vec<IdTokenGrant>> {
        self.grants.borrow().clone()
    }

    /// As the file is now.
    pub(super) async fn read(&self) -> Result<Arc<Vec<IdTokenGrant>>, GrantsFileError> {
        grants(&self.path, &read(&self.path).await?)
    }

    /// Each change from now on.
    pub(super) fn changes<E>(&self) -> impl Stream<Item = Result<(), E>> + Send + use<E> {
        stream::unfold(self.grants.clone(), async |mut grants| {
            grants.changed().await.ok()?;
            Some((Ok(()), grants))
        })
    }
}

/// A file whose grants could be used when it was read last.
#[derive(Debug)]
pub struct GrantsFile {
    path: PathBuf,
    text: String,
    grants: Arc<Vec<IdTokenGrant>>,
    /// 0 while what the file holds can't be used.
    current: Gauge,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GrantsFileError {
    /// It can't be read.
    #[error("grants file {path} can't be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it holds are no grants.
    #[error("grants file {path}: {error}")]
    Content {
        /// Which.
        path: PathBuf,
        /// Where and what.
        error: FileError,
    },
}

impl GrantsFile {
    /// Reads the file at `path`.
    pub async fn open(path: PathBuf) -> Result<Self, GrantsFileError> {
        let text = read(&path).await?;
        let grants = grants(&path, &text)?;
        let current = Gauge::default();
        current.set(1);
        Ok(Self { path, text, grants, current })
    }

    /// Makes its metric known.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Whether the grants in use are those that the file holds now";
        registry.register("grants_file_current", help, self.current.clone());
    }

    /// What it holds now, and from now on as long as the other result runs: until `stop`. While what the file holds can't be
    /// used, the grants before it stay.
    pub(super) fn follow(
        mut self,
        stop: CancellationToken,
    ) -> (Current, impl Future<Output = ()> + Send + 'static) {
        let (sender, grants) = watch::channel(self.grants.clone());
        let path = self.path.clone();
        let work = async move {
            let mut complaint = None;
            while stop.run_until_cancelled(sleep(POLL)).await.is_some() {
                match self.look().await {
                    Ok(changed) => {
                        if changed {
                            tracing::info!(file = %self.path.display(), grants = self.grants.len(), "grants read again");
                            sender.send_replace(self.grants.clone());
                        }
                        complaint = None;
                    }
                    Err(error) => {
                        let words = Some(error.to_string());
                        if words != complaint {
                            tracing::error!(%error, "the grants of before stay");
                            complaint = words;
                        }
                    }
                }
                self.current.set(i64::from(complaint.is_none()));
            }
        };
        (Current { path, grants }, work)
    }

    /// Whether there is something new.
    async fn look(&mut self) -> Result<bool, GrantsFileError> {
        let text = read(&self.path).await?;
        if text == self.text {
            return Ok(false);
        }
        self.grants = grants(&self.path, &text)?;
        self.text = text;
        Ok(true)
    }
}

async fn read(path: &Path) -> Result<String, GrantsFileError> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|source| GrantsFileError::Read { path: path.to_owned(), source })
}

fn grants(path: &Path, text: &str) -> Result<Arc<Vec<IdTokenGrant>>, GrantsFileError> {
    parse(text).map(Arc::new).map_err(|error| GrantsFileError::Content { path: path.to_owned(), error })
}

/// Polled: kubelet swaps a link above mounted files, and watches on the files themselves go deaf.
const POLL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(namespace: &str) -> String {
        format!(
            "{{apiVersion: idtoken.dev/v1alpha1, kind: IdTokenGrant, metadata: {{name: g}}, spec: {{\
             namespaces: {{names: [{namespace}]}}, identities: [operator], audiences: [a]}}}}"
        )
    }

    #[tokio::test]
    async fn a_bad_file_is_refused_at_the_start_and_later_leaves_what_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("grants.yaml");
        let missing = GrantsFile::open(path.clone()).await.unwrap_err().to_string();
        assert!(
            missing.starts_with("grants file ") && missing.contains("can't be read: No such file"),
            "{missing}"
        );
        std::fs::write(&path, text("[]")).unwrap();
        let bad = GrantsFile::open(path.clone()).await.unwrap_err().to_string();
        assert_eq!(
            bad,
            format!(
                "grants file {}: document 1 (g), spec.namespaces.names[0]: must be a text of 1 to 63 characters",
                path.display()
            )
        );

        std::fs::write(&path, text("shop")).unwrap();
        let mut file = GrantsFile::open(path.clone()).await.unwrap();
        assert!(!file.look().await.unwrap());
        let names = |file: &GrantsFile| file.grants[0].spec.namespaces.names.clone().unwrap();
        for bad in ["{", "[1]"] {
            std::fs::write(&path, bad).unwrap();
            assert!(file.look().await.is_err());
            assert_eq!(names(&file), ["shop"]);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(file.look().await.is_err());
        assert_eq!(names(&file), ["shop"]);
        std::fs::write(&path, text("bank")).unwrap();
        assert!(file.look().await.unwrap());
        assert_eq!(names(&file), ["bank"]);
        std::fs::write(&path, "").unwrap();
        assert!(file.look().await.unwrap());
        assert!(file.grants.is_empty(), "an empty file takes all of them away");
    }
}
