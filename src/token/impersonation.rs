//! A token for a service account that the operator may impersonate: IAM Credentials `generateIdToken`.

use super::{
    Error, RawToken,
    iam::{Caller, Iam, Target},
};
use crate::plan::source::{Audience, ServiceAccountEmail};

/// An ID token for `account` and `audience`, by way of `delegates`.
pub(super) async fn id_token(
    iam: &Iam,
    operator: &impl Caller,
    account: &ServiceAccountEmail,
    delegates: &[ServiceAccountEmail],
    audience: &Audience,
) -> Result<RawToken, Error> {
    let mend = format!(
        "check that {account} exists and that the operator's identity has roles/iam.serviceAccountOpenIdTokenCreator on it (and \
         roles/iam.serviceAccountTokenCreator along a chain of delegates)"
    );
    iam.id_token(operator, Target { account, delegates, mend: &mend }, audience).await
}
