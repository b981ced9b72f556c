//! A plain HTTP client.

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

/// Sends one request over a connection of its own; the status and the body.
pub async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: String,
) -> anyhow::Result<(u16, String)> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::<Bytes>::from(body))?).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).context("the body is no text")?))
}

/// GET; the body, which must be of a success.
pub async fn get(url: &str) -> anyhow::Result<String> {
    let (status, body) = send(Method::GET, url, &[], String::new()).await?;
    anyhow::ensure!(status == 200, "{url} answered {status}: {body}");
    Ok(body)
}

/// POST of JSON; the status and the JSON of the answer.
pub async fn post_json(url: &str, bearer: Option<&str>, body: &Value) -> anyhow::Result<(u16, Value)> {
    let authorization = bearer.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    json(send(Method::POST, url, &headers, body.to_string()).await?)
}

/// POST of a form, whose values need no escapes; the status and the JSON of the answer.
pub async fn post_form(url: &str, fields: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
    let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    json(send(Method::POST, url, &headers, body.join("&")).await?)
}

fn json((status, body): (u16, String)) -> anyhow::Result<(u16, Value)> {
    Ok((status, serde_json::from_str(&body).with_context(|| format!("no JSON: {body}"))?))
}
