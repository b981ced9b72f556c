//! Tokens of Kubernetes ServiceAccounts, which the Security Token Service takes as subject tokens.

use std::time::Duration;

use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use crate::{
    api::Reason,
    plan::{
        Problem,
        credential::{Account, account_missing},
    },
    token::credentials::SubjectToken,
};

/// A token of the account for `audience`.
pub(super) async fn subject_token(
    client: &Client,
    account: &Account,
    audience: &str,
) -> Result<SubjectToken, Problem> {
    let Account { namespace, name, uid, .. } = account;
    let api = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        // An account made anew meanwhile is another principal.
        metadata: ObjectMeta { uid: Some(uid.clone()), ..ObjectMeta::default() },
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(LIFE_SECONDS),
            bound_object_ref: None,
        },
        status: None,
    };
    let action = format!("token of ServiceAccount {namespace}/{name}");
    let unavailable = |why: &str| Problem::transient(Reason::SourceUnavailable, format!("{action}: {why}"));
    match timeout(TIMEOUT, api.create_token_request(name, &PostParams::default(), &request)).await {
        Ok(Ok(answer)) => {
            let token = answer.status.map(|status| status.token).filter(|token| !token.is_empty());
            token.map(SubjectToken::new).ok_or_else(|| unavailable("the API server's answer holds none"))
        }
        Ok(Err(kube::Error::Api(status))) => Err(refusal(account, &action, status.code, &status.reason)),
        Ok(Err(_)) => Err(unavailable("the API server gave no usable answer")),
        Err(_) => Err(unavailable(&format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn refusal(account: &Account, action: &str, code: u16, reason: &str) -> Problem {
    match code {
        404 => account_missing(&account.namespace, &account.name),
        403 => Problem::slow(
            Reason::SourceDenied,
            format!(
                "{action}: HTTP 403: the operator may not make tokens here; install the chart with \
                 sources.kubernetesServiceAccount=true, or see which admission policy forbids it"
            ),
        ),
        400..=499 if code != 429 => {
            Problem::slow(Reason::SourceDenied, format!("{action}: HTTP {code} {reason}"))
        }
        code => Problem::transient(Reason::SourceUnavailable, format!("{action}: HTTP {code} {reason}")),
    }
}

/// Long enough that the federated token, which does not outlive it, is good for about an hour.
const LIFE_SECONDS: i64 = 3600;
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::plan::Retry::{self, OnChange, Slowly};

    const SOON: Retry = Retry::Transient { retry_after: None };

    fn account() -> Account {
        Account {
            namespace: "shop".to_owned(),
            name: "app".to_owned(),
            uid: "uid-1".to_owned(),
            annotated: None,
            is_principal: false,
        }
    }

    /// An API server that gives one answer to the one right request.
    fn server(status: u16, answer: &str) -> Client {
        let answer = answer.to_owned();
        let service = service_fn(move |request: Request<Body>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let path = "/api/v1/namespaces/shop/serviceaccounts/app/token";
                assert_eq!((head.method.as_str(), head.uri.path()), ("POST", path));
                let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                assert_eq!(body["metadata"]["uid"], "uid-1");
                assert_eq!(body["spec"], json!({"audiences": ["pool"], "expirationSeconds": 3600}));
                let answer = Response::builder().status(status).body(Body::from(answer.into_bytes()));
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn status(code: u16, reason: &str) -> String {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
            "message": "of eyJhbGciOiJSUzI1NiJ9",
        })
        .to_string()
    }

    fn token(token: &str) -> String {
        let spec = json!({"audiences": ["pool"]});
        let status = json!({"token": token, "expirationTimestamp": "2026-01-01T00:00:00Z"});
        json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec, "status": status})
            .to_string()
    }

    #[tokio::test]
    async fn each_refusal_has_its_reason() {
        subject_token(&server(201, &token("a.b.c")), &account(), "pool").await.unwrap();
        let table = [
            (
                400,
                "BadRequest",
                "SourceDenied",
                Slowly,
                "token of ServiceAccount shop/app: HTTP 400 BadRequest",
            ),
            (
                401,
                "Unauthorized",
                "SourceDenied",
                Slowly,
                "token of ServiceAccount shop/app: HTTP 401 Unauthorized",
            ),
            (
                403,
                "Forbidden",
                "SourceDenied",
                Slowly,
                "token of ServiceAccount shop/app: HTTP 403: the operator may not make tokens here; install the chart with \
                 sources.kubernetesServiceAccount=true, or see which admission policy forbids it",
            ),
            (
                404,
                "NotFound",
                "CredentialsNotFound",
                OnChange,
                "ServiceAccount shop/app does not exist; create it",
            ),
            (409, "Conflict", "SourceDenied", Slowly, "token of ServiceAccount shop/app: HTTP 409 Conflict"),
            (422, "Invalid", "SourceDenied", Slowly, "token of ServiceAccount shop/app: HTTP 422 Invalid"),
            (
                429,
                "TooManyRequests",
                "SourceUnavailable",
                SOON,
                "token of ServiceAccount shop/app: HTTP 429 TooManyRequests",
            ),
            (
                500,
                "InternalError",
                "SourceUnavailable",
                SOON,
                "token of ServiceAccount shop/app: HTTP 500 InternalError",
            ),
            (
                503,
                "ServiceUnavailable",
                "SourceUnavailable",
                SOON,
                "token of ServiceAccount shop/app: HTTP 503 ServiceUnavailable",
            ),
            (504, "Timeout", "SourceUnavailable", SOON, "token of ServiceAccount shop/app: HTTP 504 Timeout"),
        ];
        for (code, word, reason, retry, message) in table {
            let server = server(code, &status(code, word));
            let problem = subject_token(&server, &account(), "pool").await.map(|_| ()).unwrap_err();
            assert_eq!(
                (problem.reason.as_str(), problem.retry, problem.message.as_str()),
                (reason, retry, message)
            );
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_token_passes() {
        let table = [
            (201, token(""), "token of ServiceAccount shop/app: the API server's answer holds none"),
            (
                201,
                "<html>eyJhbGciOiJSUzI1NiJ9".to_owned(),
                "token of ServiceAccount shop/app: the API server gave no usable answer",
            ),
        ];
        for (code, answer, message) in table {
            let problem =
                subject_token(&server(code, &answer), &account(), "pool").await.map(|_| ()).unwrap_err();
            assert_eq!((problem.reason.as_str(), problem.retry), ("SourceUnavailable", SOON));
            assert_eq!(problem.message, message);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let service = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
        let client = Client::new(service, "default");
        let problem = subject_token(&client, &account(), "pool").await.map(|_| ()).unwrap_err();
        assert_eq!((problem.reason.as_str(), problem.retry), ("SourceUnavailable", SOON));
        assert_eq!(problem.message, "token of ServiceAccount shop/app: no answer within 10 s");
    }
}
