//! A JWT that a service account signs for itself, as IAP takes them: IAM Credentials `signJwt`.

use serde_json::json;

use super::{
    Error, RawToken,
    iam::{Caller, Iam, Target},
    key::LIFE_SECONDS,
};
use crate::plan::source::{Audience, ServiceAccountEmail};

/// A JWT of `account` for `audience`, good for an hour.
pub(super) async fn signed_jwt(
    iam: &Iam,
    operator: &impl Caller,
    account: &ServiceAccountEmail,
    audience: &Audience,
) -> Result<RawToken, Error> {
    let mend = format!(
        "check that {account} exists and that the operator's identity has roles/iam.serviceAccountTokenCreator on it"
    );
    let issued = crate::clock::now().as_second();
    let claims = json!({
        "iss": account,
        "sub": account,
        "aud": audience.as_str(),
        "iat": issued,
        "exp": issued + LIFE_SECONDS,
    });
    iam.signed_jwt(operator, Target { account, delegates: &[], mend: &mend }, &claims).await
}
