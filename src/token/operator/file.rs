//! The operator's credential file. It is read again for every access token, so that it can be replaced.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{AccessToken, Sources};
use crate::token::{
    Error,
    credential_file::{CredentialFile, Impersonated, Unusable, UserGrant},
    endpoints::{Endpoints, PUBLIC_UNIVERSE},
    external::ExternalAccount,
    google_error,
    http::{Http, Reply},
    iam::{CLOUD_PLATFORM, Iam, Target},
    key::{Key, LIFE_SECONDS},
    oauth::{AccessAnswer, Oauth},
    sts::{Exchange, Sts},
};

/// The files that may hold the operator's identity, and the APIs that make access tokens of them.
#[derive(Debug)]
pub(super) struct Files {
    sources: Sources,
    http: Http,
    oauth: Oauth,
    sts: Sts,
    iam: Iam,
    is_public_universe: bool,
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    path: PathBuf,
    pub(super) content: CredentialFile,
}

/// Why the operator's credential file can't be used. The texts never hold its content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("credential file {path} can't be read: {cause}")]
    Read {
        /// Where it was looked for.
        path: String,
        /// What the system said.
        cause: std::io::ErrorKind,
    },
    /// Its path is none.
    #[error(
        "GOOGLE_APPLICATION_CREDENTIALS, CLOUDSDK_CONFIG and their flags take the path of a file, and one holds something else, perhaps \
         the content of a file: mount the Secret as a file, and give its path"
    )]
    NoPath,
    /// Its content serves for nothing.
    #[error("credential file {path} {why}; {taken}")]
    Unusable {
        /// Where it stands.
        path: String,
        /// What is wrong with it.
        why: Unusable,
        /// What serves.
        taken: &'static str,
    },
    /// It is a person's.
    #[error(
        "credential file {path} is a person's (type authorized_user, as gcloud writes it), and the controller acts as no person; {TAKEN}"
    )]
    User {
        /// Where it stands.
        path: String,
    },
    /// The token that it is to exchange can't be had.
    #[error("credential file {path}: {why}")]
    Subject {
        /// Where it stands.
        path: String,
        /// Why not.
        why: String,
    },
}

impl FileError {
    /// Whether it is not there, and not merely unfit.
    pub(in crate::token) fn is_missing(&self) -> bool {
        matches!(self, Self::Read { .. })
    }

    /// Whether it may pass by itself: the file is right, and what it points at is not to be had.
    pub(in crate::token) fn is_passing(&self) -> bool {
        matches!(self, Self::Subject { .. })
    }
}

impl Files {
    pub(super) fn new(http: &Http, endpoints: &Endpoints, sources: Sources) -> Self {
        Self {
            sources,
            http: http.clone(),
            oauth: Oauth::new(http.clone(), endpoints.oauth_token.clone()),
            sts: Sts::new(http.clone(), endpoints.sts.clone()),
            iam: Iam::new(http.clone(), endpoints.iam_credentials.clone()),
            is_public_universe: endpoints.universe == PUBLIC_UNIVERSE,
        }
    }

    /// The file that counts now; `None`: there is none.
    pub(super) async fn find(&self) -> Result<Option<Found>, FileError> {
        let Sources { credentials_file, gcloud_file, .. } = &self.sources;
        if let Some(path) = credentials_file {
            return self.read(path).await.map(Some);
        }
        let Some(path) = gcloud_file else { return Ok(None) };
        match self.read(path).await {
            // Nobody named it: where it is not there, or not ours to read (a HOME of somebody else's), it does not count.
            Err(FileError::Read { .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Whether a person's files serve as well.
    pub(super) fn allow_user(&self) -> bool {
        self.sources.allow_user
    }

    /// An access token of whom the file stands for.
    pub(super) async fn access_token(&self, file: &Found) -> Result<AccessToken, Error> {
        match &file.content {
            CredentialFile::Impersonated(impersonated) => {
                let Impersonated { source, target, delegates } = impersonated;
                let caller = Arc::new(self.direct(&file.path, source).await?);
                self.impersonate(&caller, target, delegates).await
            }
            direct => self.direct(&file.path, direct).await,
        }
    }

    async fn read(&self, path: &Path) -> Result<Found, FileError> {
        if !is_path(path) {
            return Err(FileError::NoPath);
        }
        let name = path.display().to_string();
        let text = tokio::fs::read(path)
            .await
            .map(Zeroizing::new)
            .map_err(|e| FileError::Read { path: name.clone(), cause: e.kind() })?;
        let content = CredentialFile::parse(&text).map_err(|why| self.unusable(path, why))?;
        if content.is_users() && !self.sources.allow_user {
            return Err(FileError::User { path: name });
        }
        Ok(Found { path: path.to_owned(), content })
    }

    /// An access token of a file that is no `impersonated_service_account`.
    async fn direct(&self, path: &Path, file: &CredentialFile) -> Result<AccessToken, Error> {
        match file {
            CredentialFile::ServiceAccount(key) => self.by_key(path, key).await,
            CredentialFile::User(grant) => self.by_user(grant).await,
            CredentialFile::External(external) => self.by_federation(path, external).await,
            // Parsing refuses a chain of them.
            CredentialFile::Impersonated(_) => {
                Err(self.unusable(path, Unusable::Field("source_credentials")).into())
            }
        }
    }

    async fn by_key(&self, path: &Path, key: &Key) -> Result<AccessToken, Error> {
        if !self.is_public_universe {
            let jwt = key.self_signed(crate::clock::now()).map_err(|why| self.unusable(path, why))?;
            return Ok(AccessToken::new(jwt, LIFE_SECONDS.unsigned_abs()));
        }
        let action = format!("OAuth token for {}", key.account);
        let assertion =
            self.oauth.assertion(key, ("scope", CLOUD_PLATFORM)).map_err(|why| self.unusable(path, why))?;
        let reply = self.oauth.assert(&action, &assertion).await?;
        answer(&action, &reply, "check that the key still exists and that the clock is right")
    }

    async fn by_user(&self, grant: &UserGrant) -> Result<AccessToken, Error> {
        let action = "OAuth token for gcloud's user";
        let reply = self.oauth.refresh(action, grant).await?;
        answer(action, &reply, "sign in again: gcloud auth application-default login")
    }

    async fn by_federation(&self, path: &Path, external: &ExternalAccount) -> Result<AccessToken, Error> {
        let subject_token = external
            .subject_token(&self.http)
            .await
            .map_err(|why| FileError::Subject { path: path.display().to_string(), why: why.to_string() })?;
        let exchange = Exchange {
            action: "token exchange for the operator",
            audience: &external.audience,
            subject_token: &subject_token,
            subject_token_type: &external.subject_token_type,
        };
        let federated = self.sts.exchange(&exchange).await.map_err(|f| f.into_error(&exchange))?;
        match &external.target {
            None => Ok(federated),
            Some(target) => self.impersonate(&Arc::new(federated), target, &[]).await,
        }
    }

    async fn impersonate(
        &self,
        caller: &Arc<AccessToken>,
        account: &crate::plan::source::ServiceAccountEmail,
        delegates: &[crate::plan::source::ServiceAccountEmail],
    ) -> Result<AccessToken, Error> {
        let mend = format!(
            "check that {account} exists and that whom the credential file stands for may impersonate it: \
             roles/iam.workloadIdentityUser for a federated principal, else roles/iam.serviceAccountTokenCreator"
        );
        self.iam.access_token(caller, Target { account, delegates, mend: &mend }).await
    }

    fn unusable(&self, path: &Path, why: Unusable) -> FileError {
        let taken = if self.sources.allow_user { TAKEN_WITH_USERS } else { TAKEN };
        FileError::Unusable { path: path.display().to_string(), why, taken }
    }
}

/// Whether `path` may be one. Content that was given in its place must not be shown: no file has such a name.
pub(super) fn is_path(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    let longest = if path.is_absolute() { 4096 } else { 255 };
    bytes.len() <= longest && !bytes.iter().any(|b| *b == b'{' || b.is_ascii_control())
}

fn answer(action: &str, reply: &Reply, mend: &str) -> Result<AccessToken, Error> {
    if reply.status.is_success() {
        return AccessAnswer::read(action, reply);
    }
    Err(google_error::from_reply(action, reply, mend))
}

const TAKEN: &str = "taken are service_account, external_account (with a file or a URL as credential_source) and \
                     impersonated_service_account";
const TAKEN_WITH_USERS: &str = "taken are service_account, authorized_user, external_account (with a file or a URL as \
                                credential_source) and impersonated_service_account";
