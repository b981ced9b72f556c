//! Getting tokens from Google: one file per source, over one HTTP client.

mod credential_file;
pub mod credentials;
pub mod endpoints;
mod external;
mod federation;
mod google_error;
pub mod http;
mod iam;
mod identity_platform;
mod impersonation;
mod key;
mod metadata;
pub mod mint;
mod oauth;
pub mod operator;
mod service_account_key;
mod shared;
mod signed_jwt;
mod sts;
mod user_credentials;

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    api::Reason,
    plan::{Problem, Retry},
};

/// A raw ID token, fresh from its source. It can't be printed and is wiped when dropped.
#[derive(Clone)]
pub struct RawToken(Zeroizing<String>);

impl RawToken {
    /// Takes the text of a token.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for verification and for the Secret; nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RawToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a source gave no token. The texts hold HTTP codes, Google's own reasons and our words, never a body.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error("{action}: {cause}")]
    Call {
        /// What was attempted.
        action: String,
        /// What happened.
        #[source]
        cause: http::CallError,
    },
    /// Google refused.
    #[error("{action}: {detail}; {mend}")]
    Denied {
        /// What was attempted.
        action: String,
        /// HTTP code and Google's reason.
        detail: String,
        /// What usually helps.
        mend: String,
    },
    /// 429.
    #[error("{action}: {detail}")]
    Quota {
        /// What was attempted.
        action: String,
        /// HTTP code and Google's reason.
        detail: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u64>,
    },
    /// 5xx, or an answer in no known form.
    #[error("{action}: {detail}")]
    Unavailable {
        /// What was attempted.
        action: String,
        /// HTTP code and Google's reason.
        detail: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u64>,
    },
    /// 200 with something else than a token.
    #[error("{action}: the answer holds no token")]
    NoToken {
        /// What was attempted.
        action: String,
    },
    /// A principal without a Google service account.
    #[error("{action}: {detail}; {mend}")]
    NoServiceAccount {
        /// What was attempted.
        action: String,
        /// HTTP code and Google's reason.
        detail: String,
        /// What helps.
        mend: String,
    },
    /// The operator's own credential file can't be used.
    #[error("{0}")]
    CredentialFile(#[from] operator::FileError),
    /// The binding's own credential can't be had, can't be used, or was refused; or the use of the operator's identity is not
    /// granted.
    #[error("{}", .0.message)]
    Credential(Problem),
}

impl Error {
    /// The documented reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Call { .. } | Self::Unavailable { .. } => Reason::SourceUnavailable,
            Self::Denied { .. } => Reason::SourceDenied,
            Self::Quota { .. } => Reason::QuotaExceeded,
            Self::NoToken { .. } => Reason::TokenRejected,
            Self::NoServiceAccount { .. } => Reason::NoServiceAccountForIdToken,
            Self::CredentialFile(e) if e.is_missing() => Reason::CredentialsNotFound,
            Self::CredentialFile(e) if e.is_passing() => Reason::SourceUnavailable,
            Self::CredentialFile(_) => Reason::CredentialsNotAllowed,
            Self::Credential(problem) => problem.reason,
        }
    }

    /// When trying again makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Call { .. } | Self::NoToken { .. } => Retry::Transient { retry_after: None },
            Self::Quota { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Retry::Transient { retry_after: *retry_after }
            }
            Self::Credential(problem) => problem.retry,
            Self::CredentialFile(e) if e.is_passing() => Retry::Transient { retry_after: None },
            Self::Denied { .. } | Self::NoServiceAccount { .. } | Self::CredentialFile(_) => Retry::Slowly,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Credential(problem)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self { reason: error.reason(), message: error.to_string(), retry: error.retry() }
    }
}

#[cfg(test)]
mod tests;
