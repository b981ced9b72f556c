//! The metadata server: the identity that the operator's pod or machine has.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    Error, RawToken,
    endpoints::{encode, join},
    google_error,
    http::{Http, Reply, Request, Turn},
    operator::AccessToken,
};
use crate::plan::Problem;

/// The metadata server.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    http: Http,
    origin: Uri,
}

impl Metadata {
    pub(super) fn new(http: Http, origin: Uri) -> Self {
        Self { http, origin }
    }

    /// An ID token for `audience`, if `authorise` says so when there is nothing left to wait for. The server may hand out one that it
    /// made before.
    pub(super) async fn id_token<F>(
        &self,
        audience: &str,
        authorise: impl Fn() -> F,
    ) -> Result<RawToken, Error>
    where
        F: Future<Output = Result<(), Problem>>,
    {
        // `full`, since the short form has been seen without the e-mail address.
        let path = format!("{ACCOUNT}/identity?audience={}&format=full", encode(audience));
        // First without keeping others from their turn: it may take a look at the API server, which is then fresh.
        authorise().await?;
        let turn = self.http.turn().await;
        authorise().await?;
        let reply = accepted("identity", self.send(turn, "identity", &path).await?)?;
        let text =
            std::str::from_utf8(&reply.body).map_err(|_| Error::NoToken { action: action("identity") })?;
        Ok(RawToken::new(text.trim().to_owned()))
    }

    /// An access token of the attached account.
    pub(super) async fn access_token(&self) -> Result<AccessToken, Error> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            expires_in: u64,
        }
        let reply = self.get("token", &format!("{ACCOUNT}/token")).await?;
        let answer: Answer =
            serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action: action("token") })?;
        Ok(AccessToken::new(Zeroizing::new(answer.access_token), answer.expires_in))
    }

    /// E-mail address of the attached account.
    pub(super) async fn email(&self) -> Result<String, Error> {
        let reply = self.get("email", &format!("{ACCOUNT}/email")).await?;
        let text = std::str::from_utf8(&reply.body).unwrap_or_default().trim();
        let plausible = (1..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if !plausible {
            return Err(Error::NoToken { action: action("email") });
        }
        Ok(text.to_owned())
    }

    /// A name that the server tells of the project or the machine; `None`: it has no such thing.
    pub(super) async fn name(&self, what: &str, path: &str) -> Result<Option<String>, Error> {
        let reply = self.send(self.http.turn().await, what, path).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        let reply = accepted(what, reply)?;
        let text = std::str::from_utf8(&reply.body).unwrap_or_default().trim();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':');
        let plausible = (1..=100).contains(&text.len()) && text.bytes().all(plain);
        plausible.then(|| Some(text.to_owned())).ok_or_else(|| Error::NoToken { action: action(what) })
    }

    async fn get(&self, what: &str, path: &str) -> Result<Reply, Error> {
        accepted(what, self.send(self.http.turn().await, what, path).await?)
    }

    async fn send(&self, turn: Turn<'_>, what: &str, path: &str) -> Result<Reply, Error> {
        let fail = |cause| Error::Call { action: action(what), cause };
        let request = Request::get(join(&self.origin, path).map_err(fail)?)
            .header(FLAVOR, HeaderValue::from_static("Google"))
            .timeout(TIMEOUT);
        turn.call(request).await.map_err(fail)
    }
}

fn accepted(what: &str, reply: Reply) -> Result<Reply, Error> {
    if reply.status.is_success() { Ok(reply) } else { Err(refusal(what, &reply)) }
}

fn action(what: &str) -> String {
    format!("metadata server, {what}")
}

fn refusal(what: &str, reply: &Reply) -> Error {
    let text = String::from_utf8_lossy(&reply.body);
    if reply.status == 404 && text.contains("is not annotated with a target Google service account") {
        return Error::NoServiceAccount {
            action: action(what),
            detail: "HTTP 404".to_owned(),
            mend: "the operator's Kubernetes ServiceAccount has no annotation iam.gke.io/gcp-service-account, and a direct \
                   federated principal has no Google-signed ID token: annotate it with a Google service account"
                .to_owned(),
        };
    }
    google_error::from_reply(
        &action(what),
        reply,
        "check that the operator's pod or machine has a Google service account, that it exists, and on GKE that the \
         Kubernetes ServiceAccount has roles/iam.workloadIdentityUser on it",
    )
}

const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
/// The server has been seen to take 20 s just after a pod's start (peers: ESPv2 allows 30 s).
const TIMEOUT: Duration = Duration::from_secs(30);
