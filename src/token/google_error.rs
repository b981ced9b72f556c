//! Google's refusals, reduced to HTTP code and Google's reason. Shapes: google.rpc.Status
//! in JSON, OAuth's `error`, and the metadata server's plain text.

use serde::Deserialize;

use super::{Error, http::Reply};
use crate::clock;

/// Turns a reply that is no success into an error. `mend` is what usually helps against a refusal.
pub(super) fn from_reply(action: &str, reply: &Reply, mend: &str) -> Error {
    let action = action.to_owned();
    let status = reply.status.as_u16();
    let detail = match reason(&reply.body) {
        Some(reason) => format!("HTTP {status} {reason}"),
        None => format!("HTTP {status}"),
    };
    let retry_after = reply.retry_after(clock::now());
    match status {
        429 => Error::Quota { action, detail, retry_after },
        // 408 is a slow connection, no refusal.
        400..=407 | 409..=499 => Error::Denied { action, detail, mend: mend.to_owned() },
        _ => Error::Unavailable { action, detail, retry_after },
    }
}

/// What an OAuth endpoint said: to be compared with what is known, never to be shown, but for a code that is a word.
pub(super) struct OauthRefusal {
    /// `error`.
    pub(super) code: String,
    description: String,
    subtype: String,
}

/// OAuth's error in a reply that is no success.
pub(super) fn oauth(reply: &Reply) -> Option<OauthRefusal> {
    #[derive(Deserialize)]
    struct Body {
        error: String,
        #[serde(default)]
        error_description: String,
        #[serde(default)]
        error_subtype: String,
    }
    let body: Body = serde_json::from_slice(&reply.body).ok()?;
    Some(OauthRefusal {
        code: body.error,
        description: body.error_description.to_ascii_lowercase(),
        subtype: body.error_subtype,
    })
}

impl OauthRefusal {
    /// Whether the description has `words` in it, in lower case.
    pub(super) fn says(&self, words: &str) -> bool {
        self.description.contains(words)
    }

    /// Whether `error_subtype` is `subtype`.
    pub(super) fn is(&self, subtype: &str) -> bool {
        self.subtype == subtype
    }
}

/// Google's machine-readable reason: `details[].reason` or `status` of google.rpc, or OAuth's `error`. Only words of
/// letters, digits and underscores pass: an error's text may hold what was sent.
fn reason(body: &[u8]) -> Option<String> {
    let body: Body = serde_json::from_slice(body).ok()?;
    let words = match body.error {
        ErrorField::Oauth(code) => vec![code],
        ErrorField::Rpc { status, details } => {
            status.into_iter().chain(details.into_iter().filter_map(|d| d.reason)).collect()
        }
    };
    let mut words: Vec<_> = words.into_iter().filter(|w| is_word(w)).collect();
    words.dedup();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Whether `text` is written as OAuth's codes or as google.rpc's reasons are. A token, a key or a password hardly ever is.
pub(super) fn is_word(text: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b == b'_';
    let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    (1..=64).contains(&text.len()) && (text.bytes().all(lower) || text.bytes().all(upper))
}

#[derive(Deserialize)]
struct Body {
    error: ErrorField,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorField {
    Oauth(String),
    Rpc {
        status: Option<String>,
        #[serde(default)]
        details: Vec<Detail>,
    },
}

#[derive(Deserialize)]
struct Detail {
    reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use super::*;
    use crate::{api::Reason, plan::Retry};

    #[test]
    fn each_status_has_its_error() {
        let soon = Retry::Transient { retry_after: Some(11) };
        let denied = (Reason::SourceDenied, Retry::Slowly, "; mend");
        let unavailable = (Reason::SourceUnavailable, soon, "");
        let table = [
            (400, denied),
            (401, denied),
            (403, denied),
            (404, denied),
            (429, (Reason::QuotaExceeded, soon, "")),
            (408, unavailable),
            (302, unavailable),
            (500, unavailable),
            (502, unavailable),
            (503, unavailable),
        ];
        for (status, (reason, retry, mend)) in table {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("11"))]);
            let body = b"{\"error\": \"why\"}".to_vec().into();
            let reply = Reply { status: StatusCode::from_u16(status).unwrap(), headers, body };
            let error = from_reply("action", &reply, "mend");
            assert_eq!((error.reason(), error.retry()), (reason, retry), "{status}");
            assert_eq!(error.to_string(), format!("action: HTTP {status} why{mend}"));
        }
    }

    #[test]
    fn only_machine_readable_reasons_pass() {
        let table = [
            (
                r#"{"error":{"code":403,"message":"secret","status":"PERMISSION_DENIED","details":[{"@type":"x","reason":"IAM_PERMISSION_DENIED"}]}}"#,
                Some("PERMISSION_DENIED IAM_PERMISSION_DENIED"),
            ),
            (
                r#"{"error":{"code":404,"message":"Not found; Gaia id not found for email x","status":"NOT_FOUND"}}"#,
                Some("NOT_FOUND"),
            ),
            (
                r#"{"error":"invalid_grant","error_description":"audience in ID token [secret]"}"#,
                Some("invalid_grant"),
            ),
            (r#"{"error":"eyJhbGciOi.eyJzdWIi.c2ln"}"#, None),
            (r#"{"error":{"status":"a b c"}}"#, None),
            (r#"{"error":"AIzaSyTest0123456789abcdefghijklmnopqr"}"#, None),
            (r#"{"error":"4f0d3c2b1a"}"#, None),
            (r#"{"error":{"details":[{"reason":"RATE_LIMIT_EXCEEDED_2"}]}}"#, Some("RATE_LIMIT_EXCEEDED_2")),
            ("Your Kubernetes service account", None),
            ("", None),
        ];
        for (body, expected) in table {
            assert_eq!(reason(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }
}
