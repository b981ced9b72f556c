//! IAM Credentials `generateIdToken`: a token for a service account that the operator may impersonate.

use http::Uri;
use serde::Deserialize;

use super::{
    Error, RawToken,
    endpoints::join,
    google_error,
    http::{Http, Reply, Request},
    operator::Operator,
};
use crate::plan::source::{Audience, ServiceAccountEmail};

/// IAM Credentials, called with the operator's own identity.
#[derive(Debug)]
pub(super) struct Impersonation {
    http: Http,
    origin: Uri,
}

impl Impersonation {
    pub(super) fn new(http: Http, origin: Uri) -> Self {
        Self { http, origin }
    }

    /// An ID token for `target` and `audience`, by way of `delegates`.
    pub(super) async fn id_token(
        &self,
        operator: &Operator,
        target: &ServiceAccountEmail,
        delegates: &[ServiceAccountEmail],
        audience: &Audience,
    ) -> Result<RawToken, Error> {
        let action = format!("generateIdToken for {target}");
        let body = serde_json::json!({
            "audience": audience.as_str(),
            "includeEmail": true, // without it there is no e-mail in the token, which IAP demands
            "delegates": delegates.iter().map(|d| format!("projects/-/serviceAccounts/{d}")).collect::<Vec<_>>(),
        });
        let path = format!("/v1/projects/-/serviceAccounts/{target}:generateIdToken");
        let mut reply = self.call(operator, &action, &path, &body).await?;
        if reply.status == 401 {
            // The access token was revoked, or ended while the machine slept: once more with another one.
            reply = self.call(operator, &action, &path, &body).await?;
        }
        if !reply.status.is_success() {
            let mend = format!(
                "check that {target} exists and that the operator's identity has \
                 roles/iam.serviceAccountOpenIdTokenCreator on it (and roles/iam.serviceAccountTokenCreator along a chain \
                 of delegates)"
            );
            return Err(google_error::from_reply(&action, &reply, &mend));
        }
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        Ok(RawToken::new(answer.token))
    }

    async fn call(
        &self,
        operator: &Operator,
        action: &str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Reply, Error> {
        let access = operator.access_token().await?;
        let call = async {
            let request = Request::post_json(join(&self.origin, path)?, body).bearer(access.expose())?;
            self.http.call(request).await
        };
        let reply = call.await.map_err(|cause| Error::Call { action: action.to_owned(), cause })?;
        if reply.status == 401 {
            operator.forget(&access).await;
        }
        Ok(reply)
    }
}

#[derive(Deserialize)]
struct Answer {
    token: String,
}
