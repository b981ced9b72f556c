//! A binding's own credentials, as the sources ask for them. Who keeps them (the cluster, or files) is the caller's matter.

use std::fmt;

use zeroize::Zeroizing;

use crate::plan::{Problem, credential::Account, source::SecretKey};

/// Gives a binding's own credentials. Every answer is read anew; nothing is kept.
pub trait Credentials: Send + Sync {
    /// The values of `keys`, in their order. Only Secrets that are labelled as credentials are given.
    fn secrets(&self, keys: &[&SecretKey]) -> impl Future<Output = Result<SecretValues, Problem>> + Send;

    /// A ServiceAccount of the binding's namespace.
    fn account(&self, name: &str) -> impl Future<Output = Result<Account, Problem>> + Send;

    /// A token of `account` for `audience`, good for about an hour.
    fn subject_token(
        &self,
        account: &Account,
        audience: &str,
    ) -> impl Future<Output = Result<SubjectToken, Problem>> + Send;
}

/// What stands under some keys of Secrets.
pub struct SecretValues {
    /// The values, in the order in which they were asked for. Wiped when dropped.
    pub values: Vec<Zeroizing<Vec<u8>>>,
    /// What tells this state of the Secrets from another.
    pub version: String,
}

/// A Kubernetes ServiceAccount's token. It can't be printed and is wiped when dropped.
pub struct SubjectToken(Zeroizing<String>);

impl SubjectToken {
    /// Takes the text of a token.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the exchange and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValues({} redacted)", self.values.len())
    }
}

impl fmt::Debug for SubjectToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
