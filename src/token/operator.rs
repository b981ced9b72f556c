//! The operator's own identity, found as Google's libraries find theirs: the file that `GOOGLE_APPLICATION_CREDENTIALS` names,
//! else gcloud's file where there is one, else the metadata server.

mod file;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use zeroize::Zeroizing;

pub use self::file::FileError;
use self::file::Files;
use super::{Error, endpoints::Endpoints, http::Http, iam::Caller, metadata::Metadata, shared::Shared};
use crate::plan::Problem;

/// Who the operator is towards Google.
#[derive(Debug)]
pub struct Operator {
    files: Files,
    metadata: Metadata,
    access: Shared<Arc<AccessToken>>,
    email: Shared<Option<String>>,
}

/// Where the identity may come from, before the metadata server.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that `GOOGLE_APPLICATION_CREDENTIALS` names: where it is set, nothing else counts.
    pub credentials_file: Option<PathBuf>,
    /// gcloud's own file, which counts where it exists.
    pub gcloud_file: Option<PathBuf>,
    /// Whether a person's credentials may serve: on that person's machine they may, in a cluster not.
    pub allow_user: bool,
}

impl Sources {
    /// Refuses what is no path: whoever puts a key itself there must hear of it at once, and not see the key in every binding.
    pub fn check(&self) -> Result<(), FileError> {
        let mut paths = self.credentials_file.iter().chain(&self.gcloud_file);
        if paths.all(|path| file::is_path(path)) { Ok(()) } else { Err(FileError::NoPath) }
    }
}

/// The operator, as long as `authorise` lets it act.
pub(super) struct Authorised<'a, A> {
    /// Who calls.
    pub(super) operator: &'a Operator,
    /// Whether it still may.
    pub(super) authorise: A,
}

/// An access token. It can't be printed and is wiped when dropped.
pub struct AccessToken {
    text: Zeroizing<String>,
    got: Instant,
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
                None => self.metadata.email().await.map(Some).map_err(|e| self.without_file(e)),
            }
        };
        self.email.get(|_, age| age < EMAIL_KEPT, fetch).await
    }
}

impl Operator {
    /// Where a person may be the caller, no metadata server most often means that this person has not signed in.
    fn without_file(&self, error: Error) -> Error {
        match error {
            Error::Call { action, cause } if self.files.allow_user() => {
                Error::Unavailable { action, detail: format!("{cause}; {NO_FILE}"), retry_after: None }
            }
            error => error,
        }
    }
}

impl Caller for Operator {
    async fn access_token(&self) -> Result<Arc<AccessToken>, Error> {
        let fetch = async {
            let token = match self.files.find().await? {
                Some(file) => self.files.access_token(&file).await?,
                None => self.metadata.access_token().await.map_err(|e| self.without_file(e))?,
            };
            Ok(Arc::new(token))
        };
        self.access.get(|token, _| token.is_fresh(), fetch).await
    }

    async fn forget(&self, token: &Arc<AccessToken>) {
        self.access.forget(|held| Arc::ptr_eq(held, token)).await;
    }
}

impl<A, F> Caller for Authorised<'_, A>
where
    A: Fn() -> F + Sync,
    F: Future<Output = Result<(), Problem>> + Send,
{
    async fn access_token(&self) -> Result<Arc<AccessToken>, Error> {
        self.operator.access_token().await
    }

    async fn forget(&self, token: &Arc<AccessToken>) {
        self.operator.forget(token).await;
    }

    async fn may_call(&self) -> Result<(), Error> {
        Ok((self.authorise)().await?)
    }
}

impl AccessToken {
    pub(super) fn new(text: Zeroizing<String>, expires_in_seconds: u64) -> Self {
        // Google's clients renew 225 s before the end: the metadata server's cache ends 4 to 5 minutes before.
        // Of a shorter life, the last quarter.
        let life = Duration::from_secs(expires_in_seconds.min(12 * 3600));
        let margin = Duration::from_secs(225).min(life / 4);
        let got = Instant::now();
        Self { text, got, fresh_until: got + life.saturating_sub(margin) }
    }

    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }

    pub(super) fn age(&self) -> Duration {
        self.got.elapsed()
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

/// Whether the paths are paths, and nothing of what may be something else.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Option<PathBuf>| {
            let shown = |path: &Path| {
                if file::is_path(path) { path.display().to_string() } else { "[redacted]".to_owned() }
            };
            path.as_deref().map(shown)
        };
        f.debug_struct("Sources")
            .field("credentials_file", &shown(&self.credentials_file))
            .field("gcloud_file", &shown(&self.gcloud_file))
            .field("allow_user", &self.allow_user)
            .finish()
    }
}

const NO_FILE: &str = "no credential file was found: sign in with gcloud auth application-default login, or name a file by \
                       --google-application-credentials";
const EMAIL_KEPT: Duration = Duration::from_secs(600);
