//! The operator's own identity: from `GOOGLE_APPLICATION_CREDENTIALS` where that is set, else from the metadata server.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Error, http::Http, key_file::KeyFile, metadata::Metadata, shared::Shared};

/// Who the operator is towards Google.
#[derive(Debug)]
pub struct Operator {
    origin: Origin,
    access: Shared<Arc<AccessToken>>,
    email: Shared<String>,
}

/// An access token. It can't be printed and is wiped when dropped.
pub struct AccessToken {
    text: Zeroizing<String>,
    fresh_until: Instant,
}

impl Operator {
    /// `key_file`: the path of `GOOGLE_APPLICATION_CREDENTIALS`, where it is set.
    #[must_use]
    pub fn new(http: Http, metadata_origin: Uri, oauth_token: Uri, key_file: Option<PathBuf>) -> Self {
        let origin = match key_file {
            Some(path) => Origin::KeyFile(KeyFile::new(http, oauth_token, path)),
            None => Origin::Metadata(Metadata::new(http, metadata_origin)),
        };
        Self { origin, access: Shared::new(), email: Shared::new() }
    }

    /// E-mail address, where the identity has one; kept for 10 minutes.
    pub async fn email(&self) -> Result<Option<String>, Error> {
        let fetch = async {
            match &self.origin {
                Origin::Metadata(metadata) => metadata.email().await,
                Origin::KeyFile(key) => key.email().await,
            }
        };
        self.email.get(|_, age| age < EMAIL_KEPT, fetch).await.map(Some)
    }

    /// An access token for Google's APIs, the same for everybody until it is nearly over.
    pub(super) async fn access_token(&self) -> Result<Arc<AccessToken>, Error> {
        let fetch = async {
            match &self.origin {
                Origin::Metadata(metadata) => metadata.access_token().await.map(Arc::new),
                Origin::KeyFile(key) => key.access_token().await.map(Arc::new),
            }
        };
        self.access.get(|token, _| Instant::now() < token.fresh_until, fetch).await
    }

    /// Drops `token` where it is still the one that is handed out.
    pub(super) async fn forget(&self, token: &Arc<AccessToken>) {
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

    pub(super) fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[derive(Debug)]
enum Origin {
    Metadata(Metadata),
    KeyFile(KeyFile),
}

const EMAIL_KEPT: Duration = Duration::from_secs(600);
