//! From what is wanted to a verified token: the one path, with a cluster or without.

use crate::{
    api::Reason,
    clock,
    plan::{
        Problem,
        decide::{refuse_api, refuse_self},
        grant::Authority,
        refresh::Lifetime,
        secret::{Record, sha256_hex},
        source::Source,
        validate::Wanted,
    },
    token::{
        RawToken,
        credentials::Credentials,
        mint::{Minted, Minter},
    },
    verify::{Verifier, claims::Rejected, expect::Expectation},
};

/// A token that was verified, whichever binding it is for.
#[derive(Debug)]
pub struct Obtained {
    /// The token.
    pub token: RawToken,
    /// `iat` and `exp`.
    pub life: Lifetime,
    issuer: String,
    identity: String,
    token_sha256: String,
    credential: Option<String>,
    /// False: the issuer's keys could not be had.
    pub signature_checked: bool,
}

impl Obtained {
    /// What is noted beside it in the Secret of a binding that asks for it by `wanted`.
    #[must_use]
    pub fn record(&self, wanted: &Wanted) -> Record {
        Record {
            issuer: self.issuer.clone(),
            identity: Some(self.identity.clone()),
            life: self.life,
            spec_hash: wanted.spec_hash.clone(),
            token_sha256: self.token_sha256.clone(),
            refresh_handled: wanted.refresh_requested.clone(),
            credential: self.credential.clone(),
            granted: Authority::of(wanted),
            signature_checked: self.signature_checked,
        }
    }
}

/// Asks the source and verifies its answer. `authorise` has the last word before the source is asked with the operator's identity; and
/// the first, since a refusal to impersonate itself tells who the operator is.
pub async fn obtain<F>(
    minter: &Minter,
    verifier: &Verifier,
    wanted: &Wanted,
    credentials: &impl Credentials,
    authorise: impl Fn() -> F + Sync,
) -> Result<Obtained, Problem>
where
    F: Future<Output = Result<(), Problem>> + Send,
{
    let source = &wanted.source;
    if let Source::Impersonation { .. } | Source::SignedJwt { .. } = source {
        refuse_api(wanted, minter.universe())?;
        authorise().await?;
        if let Some(operator) = minter.operator().email().await? {
            refuse_self(source, &operator)?;
        }
    }
    let request = wanted.refresh_requested.as_deref();
    let Minted { token, email, credential } =
        minter.mint(source, &wanted.audience, credentials, request, authorise).await?;
    let expected = Expectation::of(source, &wanted.audience, email.as_deref());
    let checked = verifier
        .verify(token.expose(), &expected, clock::now())
        .await
        .map_err(|why| rejected(source, &why))?;
    Ok(Obtained {
        life: Lifetime { issued: checked.verified.issued, expires: checked.verified.expires },
        issuer: checked.verified.issuer,
        identity: checked.verified.identity,
        token_sha256: sha256_hex(token.expose().as_bytes()),
        credential,
        signature_checked: checked.signature_checked,
        token,
    })
}

/// The problem of a token that is not the one that was asked for.
fn rejected(source: &Source, why: &Rejected) -> Problem {
    let label = source.label();
    match why {
        // The same credential gives the same audience again and again.
        Rejected::Audience { .. } if !source.chooses_audience() => Problem::slow(
            Reason::TokenRejected,
            format!(
                "{label}: {why}; it was not published. The audience of this source's tokens can't be chosen: set spec.audience to \
                 the one received, or take another source"
            ),
        ),
        // So does the same grant of a person.
        Rejected::Missing("email") if matches!(source, Source::UserCredentials { .. }) => Problem::slow(
            Reason::TokenRejected,
            format!(
                "{label}: {why}; it was not published. The person's grant lacks a scope: sign in with \
                 https://www.googleapis.com/auth/userinfo.email among the scopes, and put the new file into the Secret"
            ),
        ),
        // And the same user.
        Rejected::Email { .. } if let Source::IdentityPlatform { email, .. } = source => Problem::slow(
            Reason::TokenRejected,
            format!(
                "{label}: the token is for another address than the one in {email}; it was not published. Put the user's present address \
                 there"
            ),
        ),
        Rejected::Tenant { .. } | Rejected::EmailUnverified if !source.chooses_audience() => {
            Problem::slow(Reason::TokenRejected, format!("{label}: {why}; it was not published"))
        }
        why => Problem::transient(Reason::TokenRejected, format!("{label}: {why}; it was not published")),
    }
}

#[cfg(test)]
impl Obtained {
    /// One that nobody has verified.
    pub(super) fn untested(text: &str, life: Lifetime) -> Self {
        Self {
            token: RawToken::new(text.to_owned()),
            life,
            issuer: "https://accounts.google.com".to_owned(),
            identity: "caller@p.iam.gserviceaccount.com".to_owned(),
            token_sha256: sha256_hex(text.as_bytes()),
            credential: None,
            signature_checked: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Retry, source::SecretKey};

    #[test]
    fn what_the_same_credential_repeats_is_not_asked_for_soon() {
        let file = SecretKey { name: "me".to_owned(), key: "adc.json".to_owned() };
        let (user, metadata) = (Source::UserCredentials { file }, Source::MetadataServer);
        let soon = Retry::Transient { retry_after: None };
        let audience = Rejected::Audience { received: "a".to_owned(), expected: "b".to_owned() };
        let table = [
            (&user, &audience, Retry::Slowly, "set spec.audience to the one received"),
            (&metadata, &audience, soon, "it was not published"),
            (&user, &Rejected::Missing("email"), Retry::Slowly, "/auth/userinfo.email among the scopes"),
            (&metadata, &Rejected::Missing("email"), soon, "it was not published"),
            (&user, &Rejected::Signature, soon, "it was not published"),
        ];
        for (source, why, retry, words) in table {
            let problem = rejected(source, why);
            assert_eq!((problem.reason, problem.retry), (Reason::TokenRejected, retry), "{why}");
            assert!(problem.message.starts_with(&format!("{}: {why}; it was not published", source.label())));
            assert!(problem.message.contains(words), "{}", problem.message);
        }
    }
}
