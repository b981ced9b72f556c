//! The API calls on Secrets. Answers are asked for as metadata only, so that no token ever comes back with a write.

use std::time::Duration;

use http::{Method, header};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, Resource as _, api::GetParams, core::PartialObjectMeta};
use serde_json::json;

use crate::{api::FIELD_MANAGER, cache::light::Light};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API server's answer, or none.
    #[error("{action} {namespace}/{name}: {}", describe(cause))]
    Api { action: &'static str, namespace: String, name: String, cause: Box<kube::Error> },
    /// No answer in time.
    #[error("{action} {namespace}/{name}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout { action: &'static str, namespace: String, name: String },
}

impl Error {
    /// HTTP code of the API server's answer.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Api { cause, .. } => match cause.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }

    /// What the API server said, to be put behind the error; only of calls that sent no secret, for it may repeat what was sent.
    pub(super) fn said(&self) -> String {
        match self {
            Self::Api { cause, .. } if let kube::Error::Api(status) = cause.as_ref() => {
                format!(": {}", status.message)
            }
            _ => String::new(),
        }
    }
}

/// Metadata of a Secret.
pub(super) async fn metadata(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<PartialObjectMeta<Secret>>, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    bounded("get Secret", namespace, name, api.get_metadata_opt(name)).await
}

/// A whole Secret. Only ever called for one that is ours, or that is a credential of a binding.
pub(super) async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    match bounded("read Secret", namespace, name, api.get_with(name, &GetParams::default())).await {
        Ok(secret) => Ok(Some(secret)),
        Err(e) if e.code() == Some(404) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Creates `secret`: fails with 409 where the name is taken.
pub(super) async fn create(client: &Client, secret: &Secret) -> Result<Light<Secret>, Error> {
    write(client, Method::POST, secret).await
}

/// Replaces the Secret whose `uid` and `resourceVersion` stand in `secret`: fails with 409 where it is another by now.
pub(super) async fn replace(client: &Client, secret: &Secret) -> Result<Light<Secret>, Error> {
    write(client, Method::PUT, secret).await
}

/// Deletes the Secret whose `uid` and `resourceVersion` stand in `secret`: fails with 409 where it is another by now. One that
/// is gone already is as good. Gives what is still there, held by finalizers.
pub(super) async fn delete(
    client: &Client,
    namespace: &str,
    secret: &ObjectMeta,
) -> Result<Option<ObjectMeta>, Error> {
    let name = secret.name.as_deref().unwrap_or_default();
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": secret.uid, "resourceVersion": secret.resource_version},
    });
    let collection = Secret::url_path(&(), Some(namespace));
    let call = async {
        let request = http::Request::delete(format!("{collection}/{name}"))
            // Where a finalizer holds it up, the Secret itself is the answer.
            .header(header::ACCEPT, METADATA_ONLY)
            .header(header::CONTENT_TYPE, "application/json")
            .body(options.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        client.request::<Deleted>(request).await
    };
    match bounded("delete Secret", namespace, name, call).await {
        Ok(deleted) => Ok(deleted.metadata.filter(|meta| meta.deletion_timestamp.is_some())),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to a deletion: a `Status`, or the object that is still there.
#[derive(serde::Deserialize)]
struct Deleted {
    metadata: Option<ObjectMeta>,
}

async fn write(client: &Client, method: Method, secret: &Secret) -> Result<Light<Secret>, Error> {
    let name = secret.metadata.name.clone().unwrap_or_default();
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let action = if method == Method::POST { "create Secret" } else { "update Secret" };
    let collection = Secret::url_path(&(), Some(&namespace));
    let object = if method == Method::POST { String::new() } else { format!("/{name}") };
    let call = async {
        let body = serde_json::to_vec(secret).map_err(kube::Error::SerdeError)?;
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{collection}{object}?fieldManager={FIELD_MANAGER}"))
            .header(header::ACCEPT, METADATA_ONLY)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        client.request::<Light<Secret>>(request).await
    };
    bounded(action, &namespace, &name, call).await
}

pub(super) async fn bounded<T>(
    action: &'static str,
    namespace: &str,
    name: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(Error::Api { action, namespace, name, cause: Box::new(cause) }),
        Err(_) => Err(Error::Timeout { action, namespace, name }),
    }
}

/// The API server's reason, without anything that was sent.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("HTTP {} {}", status.code, status.reason),
        kube::Error::SerdeError(_) => "the answer can't be read".to_owned(),
        other => other.to_string(),
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// What an answer is to be: metadata, and nothing of the object itself.
pub(super) const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use kube::client::Body;
    use serde_json::Value;
    use tower::service_fn;

    use super::*;

    /// Deletes the Secret `token`, which the API server answers with this code; its result's code, and the request.
    async fn deleted(
        code: u16,
    ) -> (Result<Option<ObjectMeta>, Option<u16>>, (Method, String, String, Value)) {
        let status = if code == 200 { "Success" } else { "Failure" };
        let answer =
            json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": status, "code": code});
        answered(code, answer).await
    }

    async fn answered(
        code: u16,
        answer: Value,
    ) -> (Result<Option<ObjectMeta>, Option<u16>>, (Method, String, String, Value)) {
        let seen = Arc::new(Mutex::new(None));
        let noted = seen.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (noted, answer) = (noted.clone(), answer.to_string());
            async move {
                let (head, body) = request.into_parts();
                let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                let accept = head.headers[header::ACCEPT].to_str().unwrap().to_owned();
                *noted.lock().unwrap() = Some((head.method, head.uri.to_string(), accept, body));
                let body = Full::new(Bytes::from(answer));
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        let client = Client::new(service, "default");
        let token = ObjectMeta {
            name: Some("token".to_owned()),
            uid: Some("uid-1".to_owned()),
            resource_version: Some("41".to_owned()),
            ..ObjectMeta::default()
        };
        let result = delete(&client, "shop", &token).await.map_err(|error| error.code());
        let request = seen.lock().unwrap().take().unwrap();
        (result, request)
    }

    #[tokio::test]
    async fn only_the_very_secret_that_was_seen_is_deleted_and_no_token_comes_back() {
        let (result, request) = deleted(200).await;
        assert_eq!(result, Ok(None));
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "uid-1", "resourceVersion": "41"}});
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1".to_owned();
        assert_eq!(
            request,
            (Method::DELETE, "/api/v1/namespaces/shop/secrets/token".to_owned(), accept, options)
        );
    }

    #[tokio::test]
    async fn one_that_a_finalizer_holds_is_not_gone() {
        let held = json!({"name": "token", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/backup"]});
        let answer =
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": held});
        let finalizers = answered(200, answer).await.0.unwrap().unwrap().finalizers;
        assert_eq!(finalizers, Some(vec!["example.com/backup".to_owned()]));
    }

    #[tokio::test]
    async fn one_that_is_gone_is_as_good_and_another_version_is_a_failure() {
        assert_eq!(deleted(404).await.0, Ok(None));
        assert_eq!(deleted(409).await.0, Err(Some(409)));
        assert_eq!(deleted(403).await.0, Err(Some(403)));
    }
}
