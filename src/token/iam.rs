//! IAM Credentials, called as whoever an access token stands for.

use std::sync::Arc;

use http::Uri;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Error, RawToken,
    credential_file::Hidden,
    endpoints::join,
    google_error,
    http::{Http, Reply, Request},
    operator::AccessToken,
};
use crate::plan::source::{Audience, ServiceAccountEmail};

/// An identity that calls Google's APIs.
pub(super) trait Caller: Sync {
    /// An access token, the same for everybody until it is nearly over.
    fn access_token(&self) -> impl Future<Output = Result<Arc<AccessToken>, Error>> + Send;

    /// Drops `token`, which was refused, where it is still the one that is handed out.
    fn forget(&self, token: &Arc<AccessToken>) -> impl Future<Output = ()> + Send;

    /// Has the last word, when there is nothing left to wait for and the request would go out.
    fn may_call(&self) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }
}

/// IAM Credentials.
#[derive(Clone, Debug)]
pub(super) struct Iam {
    http: Http,
    origin: Uri,
}

/// Whom a method is called on, and what helps where that is refused.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// The service account.
    pub(super) account: &'a ServiceAccountEmail,
    /// The chain of accounts to it, first to last.
    pub(super) delegates: &'a [ServiceAccountEmail],
    /// What usually helps against a refusal.
    pub(super) mend: &'a str,
}

impl Iam {
    pub(super) fn new(http: Http, origin: Uri) -> Self {
        Self { http, origin }
    }

    /// An ID token of the target for `audience`.
    pub(super) async fn id_token(
        &self,
        caller: &impl Caller,
        target: Target<'_>,
        audience: &Audience,
    ) -> Result<RawToken, Error> {
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        // Without includeEmail there is no e-mail in the token, which IAP demands.
        let body = json!({"audience": audience.as_str(), "includeEmail": true});
        let (action, reply) = self.call(caller, "generateIdToken", target, body).await?;
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        Ok(RawToken::new(answer.token))
    }

    /// `claims` as a JWT that the target signs.
    pub(super) async fn signed_jwt(
        &self,
        caller: &impl Caller,
        target: Target<'_>,
        claims: &Value,
    ) -> Result<RawToken, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            signed_jwt: String,
        }
        let body = json!({"payload": claims.to_string()});
        let (action, reply) = self.call(caller, "signJwt", target, body).await?;
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        Ok(RawToken::new(answer.signed_jwt))
    }

    /// An access token of the target.
    pub(super) async fn access_token(
        &self,
        caller: &impl Caller,
        target: Target<'_>,
    ) -> Result<AccessToken, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            access_token: Hidden,
            expire_time: Timestamp,
        }
        let body = json!({"scope": [CLOUD_PLATFORM], "lifetime": "3600s"});
        let (action, reply) = self.call(caller, "generateAccessToken", target, body).await?;
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        let left = answer.expire_time.duration_since(crate::clock::now()).as_secs();
        Ok(AccessToken::new(answer.access_token.0, u64::try_from(left).unwrap_or_default()))
    }

    /// Calls a method; gives what was attempted and the successful answer.
    async fn call(
        &self,
        caller: &impl Caller,
        method: &str,
        target: Target<'_>,
        mut body: Value,
    ) -> Result<(String, Reply), Error> {
        let Target { account, delegates, mend } = target;
        let action = format!("{method} for {account}");
        body["delegates"] = delegates.iter().map(|d| format!("projects/-/serviceAccounts/{d}")).collect();
        let path = format!("/v1/projects/-/serviceAccounts/{account}:{method}");
        let access = caller.access_token().await?;
        let mut reply = self.attempt(caller, &access, &action, &path, &body).await?;
        if reply.status == 401 {
            // The access token was revoked, or ended while the machine slept: once more, where there is another one.
            caller.forget(&access).await;
            let another = caller.access_token().await?;
            if !Arc::ptr_eq(&access, &another) {
                reply = self.attempt(caller, &another, &action, &path, &body).await?;
            }
            if reply.status == 401 {
                caller.forget(&another).await;
            }
        }
        if reply.status.is_success() {
            return Ok((action, reply));
        }
        Err(match google_error::from_reply(&action, &reply, mend) {
            Error::Denied { action, detail, .. } if detail.contains("SERVICE_DISABLED") => {
                Error::Denied { action, detail, mend: ENABLE.to_owned() }
            }
            error => error,
        })
    }

    async fn attempt(
        &self,
        caller: &impl Caller,
        access: &AccessToken,
        action: &str,
        path: &str,
        body: &Value,
    ) -> Result<Reply, Error> {
        let turn = self.http.turn().await;
        caller.may_call().await?;
        let call = async {
            let request = Request::post_json(join(&self.origin, path)?, body).bearer(access.expose())?;
            turn.call(request).await
        };
        call.await.map_err(|cause| Error::Call { action: action.to_owned(), cause })
    }
}

const ENABLE: &str =
    "the API is switched off in the caller's project: gcloud services enable iamcredentials.googleapis.com";

/// The scope that Google's credential APIs ask for.
pub(super) const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
