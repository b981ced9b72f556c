//! Answers in the shapes that Google's APIs give them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

/// What goes back to the client; boxed, since it travels as an error too.
pub(super) type Reply = Box<Response<Full<Bytes>>>;

/// A handler's answer; an error is an answer too, so that `?` ends the handling.
pub(super) type Handled = Result<Reply, Reply>;

/// A body of the given content type.
pub(super) fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Box::new(Response::new(Full::new(body.into())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    body(status, "application/json; charset=UTF-8", value.to_string())
}

/// A `google.rpc.Status` in JSON, as the googleapis.com APIs give errors.
pub(super) fn rpc_error(status: StatusCode, message: &str, details: &[Value]) -> Reply {
    json(status, &json!({ "error": rpc_status(status, message, details) }))
}

/// The `google.rpc.Status` itself.
pub(super) fn rpc_status(status: StatusCode, message: &str, details: &[Value]) -> Value {
    let mut error = json!({ "code": status.as_u16(), "message": message, "status": rpc_code(status) });
    if !details.is_empty() {
        error["details"] = json!(details);
    }
    error
}

/// A detail of type `google.rpc.ErrorInfo`.
pub(super) fn error_info(reason: &str, domain: &str, metadata: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason, "domain": domain, "metadata": metadata,
    })
}

/// An error of the OAuth 2 family: the STS and the token endpoint.
pub(super) fn oauth_error(status: StatusCode, code: &str, description: &str) -> Reply {
    json(status, &json!({ "error": code, "error_description": description }))
}

/// The reply with one more header; a value that is no header value is left out.
pub(super) fn with_header(mut reply: Reply, name: HeaderName, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
    reply
}

fn rpc_code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}
