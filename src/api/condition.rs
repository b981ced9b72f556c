//! Condition types and reasons of `IdTokenBinding`: a closed, documented set.

use std::fmt;

/// Types of the conditions in `status.conditions` of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// True: a verified, unexpired token is in the Secret.
    ///
    /// Reasons when True: `TokenFresh`, `Suspended`. With Unknown: `Pending`. With False: all others, and `Suspended`
    /// where there is no valid token.
    Ready,
    /// True: the last refresh failed. While the good token lasts, `Ready` stays True beside it.
    Degraded,
    /// True: nothing will change until somebody acts (kstatus: failed).
    Stalled,
}

impl ConditionType {
    /// The `type` as it stands in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Degraded => "Degraded",
            Self::Stalled => "Stalled",
        }
    }
}

/// Why a condition has its status. Every variant has an entry in `docs/troubleshooting.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The Secret holds a verified token and no refresh has failed since.
    TokenFresh,
    /// The binding was seen; the first token is being fetched.
    Pending,
    /// The spec contradicts itself in a way that the CRD's rules could not tell.
    InvalidSpec,
    /// No `IdTokenGrant` lets this namespace use the operator's identity for this identity and audience.
    NotGranted,
    /// The binding asks to impersonate the operator's own service account.
    SelfImpersonation,
    /// Google refused: permission missing, or the service account does not exist (HTTP 400, 401, 403, 404).
    SourceDenied,
    /// The source could not be reached or failed (time-out, connection, HTTP 5xx).
    SourceUnavailable,
    /// The source answered 429: quota or rate limit.
    QuotaExceeded,
    /// The source answered, but what it gave failed verification; it was not published.
    TokenRejected,
    /// A Secret of that name exists and belongs to somebody else; it was left alone.
    SecretConflict,
    /// The API server refused or failed a read or a write of the Secret.
    SecretUnavailable,
    /// A named credential (Secret, key or ServiceAccount) does not exist.
    CredentialsNotFound,
    /// A named credential may not be used: label missing or file type refused.
    CredentialsNotAllowed,
    /// A direct federated principal has no Google-signed ID token: a Google service account is needed.
    NoServiceAccountForIdToken,
    /// Google refused the credential itself: password, user, refresh token or API key. It is not tried again before it changes.
    CredentialsRefused,
    /// The Kubernetes ServiceAccount names no Google service account, and neither does the spec.
    ServiceAccountNotAnnotated,
    /// The subject of the Kubernetes token is longer than the 127 bytes that workload identity federation takes.
    SubjectTooLong,
    /// This installation does not serve the chosen source.
    Unsupported,
    /// `spec.suspend` is true: nothing is minted or written.
    Suspended,
}

impl Reason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 19] = [
        Self::TokenFresh,
        Self::Pending,
        Self::InvalidSpec,
        Self::NotGranted,
        Self::SelfImpersonation,
        Self::SourceDenied,
        Self::SourceUnavailable,
        Self::QuotaExceeded,
        Self::TokenRejected,
        Self::SecretConflict,
        Self::SecretUnavailable,
        Self::CredentialsNotFound,
        Self::CredentialsNotAllowed,
        Self::NoServiceAccountForIdToken,
        Self::CredentialsRefused,
        Self::ServiceAccountNotAnnotated,
        Self::SubjectTooLong,
        Self::Unsupported,
        Self::Suspended,
    ];

    /// The `reason` as it stands in conditions, events and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenFresh => "TokenFresh",
            Self::Pending => "Pending",
            Self::InvalidSpec => "InvalidSpec",
            Self::NotGranted => "NotGranted",
            Self::SelfImpersonation => "SelfImpersonation",
            Self::SourceDenied => "SourceDenied",
            Self::SourceUnavailable => "SourceUnavailable",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::TokenRejected => "TokenRejected",
            Self::SecretConflict => "SecretConflict",
            Self::SecretUnavailable => "SecretUnavailable",
            Self::CredentialsNotFound => "CredentialsNotFound",
            Self::CredentialsNotAllowed => "CredentialsNotAllowed",
            Self::NoServiceAccountForIdToken => "NoServiceAccountForIdToken",
            Self::CredentialsRefused => "CredentialsRefused",
            Self::ServiceAccountNotAnnotated => "ServiceAccountNotAnnotated",
            Self::SubjectTooLong => "SubjectTooLong",
            Self::Unsupported => "Unsupported",
            Self::Suspended => "Suspended",
        }
    }

    /// How long somebody has to act before the binding counts as stalled; `None`: it heals by itself.
    #[must_use]
    pub fn stalls(self) -> Option<Stall> {
        match self {
            Self::InvalidSpec
            | Self::SecretConflict
            | Self::SelfImpersonation
            | Self::CredentialsRefused
            | Self::Unsupported => Some(Stall::AtOnce),
            Self::NotGranted
            | Self::SourceDenied
            | Self::CredentialsNotFound
            | Self::CredentialsNotAllowed
            | Self::ServiceAccountNotAnnotated
            | Self::SubjectTooLong
            | Self::NoServiceAccountForIdToken => Some(Stall::AfterTenMinutes),
            Self::TokenFresh
            | Self::Pending
            | Self::SourceUnavailable
            | Self::QuotaExceeded
            | Self::TokenRejected
            | Self::SecretUnavailable
            | Self::Suspended => None,
        }
    }
}

/// When a failure becomes `Stalled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Only a change of the object or its Secret can help.
    AtOnce,
    /// A grant or IAM may still heal it; both take effect within minutes.
    AfterTenMinutes,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
