//! The operator's own identity, found as Google's libraries find theirs: the file that `GOOGLE_APPLICATION_CREDENTIALS` names,
//! else gcloud's file where there is one, else the metadata server.

mod file;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::Instant;
use zeroize::Zeroizing;

pub use self::file::FileError;
use self::file::Files;
use super::{Error, endpoints::Endpoints, http::Http, iam::Caller, metadata::Metadata, shared::Shared};

/// Who the operator is towards Google.
#[derive(Debug)]
pub struct Operator {
    files: Files,
    metadata: Metadata,
    access: Shared<Arc<AccessToken>>,
    email: Shared<Option<String>>,
}

/// Where the identity may come from, before the metadata server.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that `GOOGLE_APPLICATION_CREDENTIALS` names: where it is set, nothing else counts.
    pub credentials_file: Option<PathBuf>,
    /// gcloud's own file, which counts where it exists.
    pub gcloud_file: Option<PathBuf>,
    /// Whether a person's credentials may serve: on that person's machine they may, in a cluster not.
    pub allow_user: bool,
}

/// An access token. It can't be printed and is wiped when dropped.
pub struct AccessToken {
    text: Zeroizing<String>,
    fresh_until: Instant,
}

impl Operator {
    /// From the first of `sources`, else from the metadata server.
    #[must_use]
    pub fn new(http: &Http, endpoints: &Endpoints, sources: Sources) -> Self {
        Self {
            metadata: Metadata::new(http.clone(), endpoints.metadata.clone()),
            files: Files::new(http, endpoints, sources),
            access: Shared::new(),
            email: Shared::new(),
        }
    }

    /// E-mail address, where the identity has one (a person and a federated principal have none that is known); kept for 10 minutes.
    pub async fn email(&self) -> Result<Option<String>, Error> {
        let fetch = async {
            match self.files.find().await? {
                Some(file) => Ok(file.content.account().map(ToString::to_string)),
                None => self.metadata.email().await.map(Some),
            }
        };
        self.email.get(|_, age| age < EMAIL_KEPT, fetch).await
    }
}

impl Caller for Operator {
    async fn access_token(&self) -> Result<Arc<AccessToken>, Error> {
        let fetch = async {
            let token = match self.files.find().await? {
                Some(file) => self.files.access_token(&file).await?,
                None => self.metadata.access_token().await?,
            };
            Ok(Arc::new(token))
        };
        self.access.get(|token, _| token.is_fresh(), fetch).await
    }

    async fn forget(&self, token: &Arc<AccessToken>) {
        self.access.forget(|held| Arc::ptr_eq(held, token)).await;
    }
}

impl AccessToken {
    pub(super) fn new(text: Zeroizing<String>, expires_in_seconds: u64) -> Self {
        // Google's clients renew 225 s before the end: the metadata server's cache ends 4 to 5 minutes before.
        // Of a shorter life, the last quarter.
        let life = Duration::from_secs(expires_in_seconds.min(12 * 3600));
        let margin = Duration::from_secs(225).min(life / 4);
        Self { text, fresh_until: Instant::now() + life.saturating_sub(margin) }
    }

    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }

    pub(super) fn expose(&self) -> &str {
        &self.text
    }
}

/// A token that was just got serves this one call; who hands it out gets the next one by itself.
impl Caller for Arc<AccessToken> {
    async fn access_token(&self) -> Result<Arc<AccessToken>, Error> {
        Ok(self.clone())
    }

    async fn forget(&self, _: &Arc<AccessToken>) {}
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

const EMAIL_KEPT: Duration = Duration::from_secs(600);
