//! The simulator over real HTTP; every expectation is a literal from Google's documented behaviour.
#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
mod iam;
mod identity_platform;
mod keys;
mod log;
mod metadata;
mod oauth;
mod python;
mod sts;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::{Google, Options};

const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";
const OPERATOR_MEMBER: &str = "serviceAccount:operator@demo-project.iam.gserviceaccount.com";
const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
const AUDIENCE: &str = "https://orders-abc-uc.a.run.app";

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// A string field of a JSON answer.
    fn text(&self, field: &str) -> String {
        let value = self.json();
        value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
    }
}

async fn try_send(request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (parts, body) = client.request(request).await?.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

async fn send(method: Method, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    try_send(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap()
}

async fn get(url: &str) -> Answer {
    send(Method::GET, url, &[], "").await
}

/// A path of the metadata server, asked for as it wants to be asked.
async fn metadata(google: &Google, path: &str) -> Answer {
    let url = format!("{}/computeMetadata/v1/{path}", google.metadata_url());
    send(Method::GET, &url, &[("Metadata-Flavor", "Google")], "").await
}

async fn identity(google: &Google, query: &str) -> Answer {
    metadata(google, &format!("instance/service-accounts/default/identity?{query}")).await
}

/// The operator's access token from the metadata server.
async fn operator_token(google: &Google) -> String {
    metadata(google, "instance/service-accounts/default/token").await.text("access_token")
}

async fn call_iam(google: &Google, bearer: &str, account_and_method: &str, body: Value) -> Answer {
    let url = format!("{}/v1/projects/-/serviceAccounts/{account_and_method}", google.iam_credentials_url());
    let bearer = format!("Bearer {bearer}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    send(Method::POST, &url, &headers, &body.to_string()).await
}

/// A form posted to a token endpoint.
async fn post_form(url: &str, fields: &[(&str, &str)]) -> Answer {
    let escape =
        |text: &str| text.replace('%', "%25").replace('&', "%26").replace('+', "%2B").replace('=', "%3D");
    let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    send(Method::POST, url, &[("Content-Type", "application/x-www-form-urlencoded")], &body.join("&")).await
}

async fn jwks(google: &Google) -> Value {
    get(&google.jwks_url()).await.json()
}

fn part(token: &str, index: usize) -> Value {
    let bytes = BASE64URL.decode(token.split('.').nth(index).unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn header(token: &str) -> Value {
    part(token, 0)
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

/// Whether a published key of the token's kid verifies it.
fn verifies(token: &str, jwks: &Value) -> bool {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let kid = &header(token)["kid"];
    let Some(key) = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *kid) else {
        return false;
    };
    let number = |name: &str| BASE64URL.decode(key[name].as_str().unwrap()).unwrap();
    RsaPublicKeyComponents { n: number("n"), e: number("e") }
        .verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &BASE64URL.decode(signature).unwrap())
        .is_ok()
}

/// The claims that do not depend on the time; the times are checked against the life and the clock.
fn claims_without_times(token: &str, life: i64) -> Value {
    let mut claims = claims(token);
    let claims = claims.as_object_mut().unwrap();
    let issued = claims.remove("iat").unwrap().as_i64().unwrap();
    let end = claims.remove("exp").unwrap().as_i64().unwrap();
    assert_eq!(end - issued, life);
    assert!((crate::clock::now().as_second() - issued).abs() <= 5, "issued at {issued}");
    json!(claims)
}
