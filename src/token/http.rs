//! One HTTP client for all of Google's endpoints: connections are reused, every call has a connect and a total time-out,
//! bodies are bounded, and errors never hold one.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::{Timestamp, fmt::rfc2822};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use super::endpoints::{encode, without_query};

/// The client. Cloning shares its connections, and the bound on how many calls are under way.
#[derive(Clone)]
pub struct Http {
    transport: Arc<dyn Transport>,
    in_flight: Arc<Semaphore>,
}

/// The right to one call, now. Others wait for it: whoever has it may ask something that is answered soon, and sends.
pub struct Turn<'a> {
    http: &'a Http,
    _permit: Option<SemaphorePermit<'a>>,
}

/// Carries requests: over sockets, or, in a simulation, to a model of the servers in this process.
pub trait Transport: Send + Sync {
    /// Answers `request`, or doesn't. Time-outs are the caller's.
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Bytes>, CallError>>;
}

/// A request to be sent.
pub struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// Wiped when dropped, for it may hold a password or a key's assertion. That is our copy: the buffers of the connection, which
    /// are used again, are not wiped.
    body: Zeroizing<Vec<u8>>,
    timeout: Duration,
}

/// An answer, whatever its status.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; wiped when dropped, for it may hold a token. That is our copy: the buffers that it came in are not wiped.
    pub body: Zeroizing<Vec<u8>>,
}

/// No answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Total time-out.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Name resolution, connection or TLS.
    #[error("connection failed: {0}")]
    Connect(String),
    /// The connection ended amid the answer, or the answer is no HTTP.
    #[error("the connection broke")]
    Broken,
    /// The body is over its bound.
    #[error("the answer is larger than 256 KB")]
    TooLarge,
    /// A header or address that can't be sent.
    #[error("the request can't be built: {0}")]
    Invalid(String),
}

impl Http {
    /// Trusts the system's certificates.
    pub fn new() -> Result<Self, rustls::Error> {
        use rustls_platform_verifier::BuilderVerifierExt as _;
        let tls = rustls::ClientConfig::builder().with_platform_verifier()?.with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        // Plain http serves the metadata server; the flags refuse it for anything else that is not on loopback.
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .http2_keep_alive_interval(Some(Duration::from_secs(20)))
            .build(https);
        Ok(Self::over(Arc::new(Sockets(client))))
    }

    /// Sends everything by `transport`.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>) -> Self {
        Self { transport, in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }

    /// Sends `request` when it is its turn, and reads the whole answer. Redirects are not followed.
    pub async fn call(&self, request: Request) -> Result<Reply, CallError> {
        self.turn().await.call(request).await
    }

    /// Waits until a call may be made.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { http: self, _permit: self.in_flight.acquire().await.ok() } // never closed
    }

    async fn exchange(&self, request: Request) -> Result<Reply, CallError> {
        let Request { method, uri, headers, body, .. } = request;
        let mut message = http::Request::new(Bytes::from_owner(body));
        *message.method_mut() = method;
        *message.uri_mut() = uri;
        *message.headers_mut() = headers;
        message.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        let (parts, body) = self.transport.send(message).await?.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: Zeroizing::new(body.to_vec()) })
    }
}

impl Turn<'_> {
    /// As [`Http::call`]. The request's time runs from now: whoever waits for others is not failing.
    pub async fn call(self, request: Request) -> Result<Reply, CallError> {
        let limit = request.timeout;
        let exchange = self.http.exchange(request);
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(CallError::Timeout(limit)))
    }
}

impl Request {
    /// A GET with the total time-out of Google's APIs.
    #[must_use]
    pub fn get(uri: Uri) -> Self {
        Self {
            method: Method::GET,
            uri,
            headers: HeaderMap::new(),
            body: Zeroizing::default(),
            timeout: TIMEOUT,
        }
    }

    /// A POST of JSON.
    #[must_use]
    pub fn post_json(uri: Uri, body: &impl Serialize) -> Self {
        // Room enough for all that is sent here: a vector that grows leaves its old content behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(USUAL_BODY_BYTES));
        // What has only text for keys and writes to memory can't fail.
        let _ = serde_json::to_writer(&mut *bytes, body);
        Self::post(uri, "application/json", bytes)
    }

    /// A POST of a form.
    #[must_use]
    pub fn post_form(uri: Uri, fields: &[(&str, &str)]) -> Self {
        let length = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
        let mut body = Zeroizing::new(Vec::with_capacity(length));
        for (name, value) in fields {
            let separator: &[u8] = if body.is_empty() { b"" } else { b"&" };
            body.extend_from_slice(separator);
            body.extend_from_slice(name.as_bytes());
            body.push(b'=');
            body.extend_from_slice(Zeroizing::new(encode(value)).as_bytes());
        }
        Self::post(uri, "application/x-www-form-urlencoded", body)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Adds `Authorization: Bearer …`, marked as sensitive.
    pub fn bearer(self, token: &str) -> Result<Self, CallError> {
        let mut value =
            HeaderValue::try_from(Zeroizing::new(format!("Bearer {token}")).as_str()).map_err(|_| {
                CallError::Invalid("the access token has characters that no header can hold".to_owned())
            })?;
        value.set_sensitive(true);
        Ok(self.header(header::AUTHORIZATION, value))
    }

    /// Sets the total time-out.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn post(uri: Uri, content_type: &'static str, body: Zeroizing<Vec<u8>>) -> Self {
        let request = Self { method: Method::POST, body, ..Self::get(uri) };
        request.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }
}

impl Reply {
    /// `Retry-After` in seconds from `now`. It is a number of them, or a date (RFC 9110, 10.2.3).
    #[must_use]
    pub fn retry_after(&self, now: Timestamp) -> Option<u64> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        let date =
            || u64::try_from(rfc2822::parse(text).ok()?.timestamp().duration_since(now).as_secs()).ok();
        text.parse().ok().or_else(date)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the query: it may hold an API key.
        write!(f, "Request({} {}, [redacted])", self.method, without_query(&self.uri.to_string()))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({}, [redacted])", self.status)
    }
}

struct Sockets(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Transport for Sockets {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Bytes>, CallError>> {
        let call = self.0.request(request.map(Full::new));
        Box::pin(async move {
            let answer = call.await.map_err(|e| {
                if e.is_connect() { CallError::Connect(root_cause(&e)) } else { CallError::Broken }
            })?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|e| {
                if e.is::<http_body_util::LengthLimitError>() {
                    CallError::TooLarge
                } else {
                    CallError::Broken
                }
            })?;
            Ok(http::Response::from_parts(parts, body.to_bytes()))
        })
    }
}

/// The innermost error: "Connection refused" rather than "client error (Connect)".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("idtoken-operator/", env!("CARGO_PKG_VERSION")));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// IAM Credentials' own clients allow 10 s an attempt.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Calls under way at once. Google's quota is by the minute; this bounds connections and memory. Only calls count, which are all
/// bounded in time: who waits for anything else, a Secret or somebody else's answer, holds up nobody, but for
/// a last look at the grants, which mostly is one at what watches have brought.
const MAX_IN_FLIGHT: usize = 64;
const MAX_BODY_BYTES: usize = 256 * 1024;
const USUAL_BODY_BYTES: usize = 4096;
