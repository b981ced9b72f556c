//! What Identity Platform's refusals mean. Their status is 400 almost always: only the code in the message tells them apart.

use serde::Deserialize;

use super::Wanted;
use crate::{
    api::annotations::REFRESH_REQUESTED_AT,
    clock,
    plan::Problem,
    token::{Error, google_error, http::Reply},
};

/// Why a refresh gave no token.
pub(super) enum Refused {
    /// The refresh token is over: a sign-in gives another one.
    SessionOver,
    /// Everything else.
    ForAnotherReason(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::ForAnotherReason(error)
    }
}

/// Why a refresh was refused.
pub(super) fn of_refresh(action: &str, reply: &Reply, wanted: Wanted<'_>) -> Refused {
    let said = Said::of(reply);
    let over = [
        "TOKEN_EXPIRED",
        "USER_NOT_FOUND",
        "USER_DISABLED",
        "INVALID_REFRESH_TOKEN",
        "MISSING_REFRESH_TOKEN",
        "INVALID_GRANT_TYPE",
        "MISSING_GRANT_TYPE",
    ];
    if reply.status == 400 && said.code.as_deref().is_some_and(|code| over.contains(&code)) {
        return Refused::SessionOver;
    }
    Refused::ForAnotherReason(error(action, reply, &said, wanted))
}

/// Why a sign-in was refused. Whatever may pass is tried again slowly: each attempt counts towards the lock of the account.
pub(super) fn of_sign_in(action: &str, reply: &Reply, wanted: Wanted<'_>) -> Error {
    let at_least = |seconds: Option<u64>, least: u64| Some(seconds.unwrap_or_default().max(least));
    match error(action, reply, &Said::of(reply), wanted) {
        Error::Quota { action, detail, retry_after } => {
            Error::Quota { action, detail, retry_after: at_least(retry_after, LATER_SECONDS) }
        }
        Error::Unavailable { action, detail, retry_after } => {
            Error::Unavailable { action, detail, retry_after: at_least(retry_after, DOWN_SECONDS) }
        }
        error => error,
    }
}

/// What a body says: to be compared, never to be shown, but for words of Google's.
struct Said {
    /// `CODE` of a message `CODE` or `CODE : text`.
    code: Option<String>,
    /// `details[].reason`.
    reason: Option<String>,
    /// Whether the message speaks of the API key.
    of_api_key: bool,
    /// Whether it speaks of a restriction.
    of_restriction: bool,
}

/// What is wrong with an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyFault {
    /// There is no such key (any more).
    Unknown,
    /// It is a key, but not for this API or not from here. That is lifted without another key.
    Restricted,
}

/// What a code means.
enum Meaning {
    /// The credential itself is refused.
    Refused(String),
    /// Not now.
    Later,
    /// Somebody must mend something outside.
    Denied(String),
}

impl Said {
    fn of(reply: &Reply) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Fields,
        }
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            message: String,
            #[serde(default)]
            details: Vec<Detail>,
        }
        #[derive(Deserialize)]
        struct Detail {
            reason: Option<String>,
        }
        let body: Option<Body> = serde_json::from_slice(&reply.body).ok();
        let Some(Body { error: Fields { message, details } }) = body else {
            return Self { code: None, reason: None, of_api_key: false, of_restriction: false };
        };
        let code = message.split(" : ").next().unwrap_or_default().trim();
        let is_code = google_error::is_word(code) && !code.bytes().any(|b| b.is_ascii_lowercase());
        let reason =
            details.into_iter().find_map(|detail| detail.reason).filter(|r| google_error::is_word(r));
        let text = message.to_ascii_lowercase();
        Self {
            code: is_code.then(|| code.to_owned()),
            reason,
            of_api_key: text.contains("api key"),
            of_restriction: text.contains("restrict") || text.contains("blocked"),
        }
    }

    /// What it says of the API key, if anything: a 403 may as well come from a proxy, or from the organisation's rules.
    fn key_fault(&self) -> Option<KeyFault> {
        let is_restricted = match self.reason.as_deref() {
            Some(reason) => reason.strip_prefix("API_KEY_")?.ends_with("_BLOCKED"),
            None if self.code.is_none() && self.of_api_key => self.of_restriction,
            None => return None,
        };
        Some(if is_restricted { KeyFault::Restricted } else { KeyFault::Unknown })
    }
}

fn error(action: &str, reply: &Reply, said: &Said, wanted: Wanted<'_>) -> Error {
    let status = reply.status.as_u16();
    let word = said.code.as_ref().or(said.reason.as_ref());
    let detail = word.map_or_else(|| format!("HTTP {status}"), |word| format!("HTTP {status} {word}"));
    let refused = |words: &str| Problem::refused(format!("{action}: {detail}; {words}")).into();
    let denied = |mend: String| Error::Denied { action: action.to_owned(), detail: detail.clone(), mend };
    let key = wanted.api_key;
    match (status, said.code.as_deref()) {
        (..400 | 408 | 429 | 500.., _) => google_error::from_reply(action, reply, ""),
        _ if let Some(fault) = said.key_fault() => match fault {
            KeyFault::Unknown => {
                refused(&format!("the API key in {key} is missing or not valid: put a valid one there"))
            }
            KeyFault::Restricted => denied(format!(
                "the API key in {key} may not be used for this API or from here: change the key's restrictions, or put another one there"
            )),
        },
        (_, Some(code)) => match meaning(code, wanted) {
            Meaning::Refused(words) => refused(&words),
            Meaning::Denied(mend) => denied(mend),
            Meaning::Later => Error::Quota {
                action: action.to_owned(),
                detail,
                retry_after: Some(reply.retry_after(clock::now()).unwrap_or_default().max(LATER_SECONDS)),
            },
        },
        (403, None) => denied(format!(
            "not the user but the call was refused: check that Identity Platform is enabled in the project of the API key in {key}, and \
             that its quotas, the organisation's perimeter and any proxy let the operator call it"
        )),
        _ => denied(format!(
            "check the project of the API key in {key}: Identity Platform must be enabled in it"
        )),
    }
}

fn meaning(code: &str, wanted: Wanted<'_>) -> Meaning {
    let Wanted { tenant, api_key, email, password } = wanted;
    let place = tenant.map_or_else(|| "the project".to_owned(), |tenant| format!("tenant {tenant}"));
    match code {
        "INVALID_LOGIN_CREDENTIALS" => Meaning::Refused(format!(
            "{place} has no user with this address and password: correct {email}, or {password}"
        )),
        "EMAIL_NOT_FOUND" | "USER_NOT_FOUND" => {
            Meaning::Refused(format!("{place} has no user with this address: correct {email}"))
        }
        "INVALID_EMAIL" | "MISSING_EMAIL" => {
            Meaning::Refused(format!("what stands in {email} is no e-mail address: correct it"))
        }
        "INVALID_PASSWORD" | "MISSING_PASSWORD" => {
            Meaning::Refused(format!("the password is wrong: correct {password}"))
        }
        "USER_DISABLED" => Meaning::Refused(format!(
            "the user is disabled: enable it and set the binding's annotation {REFRESH_REQUESTED_AT} to the time, or name another \
             user in {email}"
        )),
        "TOO_MANY_ATTEMPTS_TRY_LATER" | "QUOTA_EXCEEDED" => Meaning::Later,
        "INVALID_TENANT_ID" | "TENANT_ID_MISMATCH" | "TENANT_NOT_FOUND" => {
            let which = tenant.map_or_else(|| "users without a tenant".to_owned(), |t| format!("tenant {t}"));
            Meaning::Denied(format!(
                "the project of the API key in {api_key} has no {which} for this user: make the tenant, or correct \
                 spec.source.identityPlatform.tenantId or the key"
            ))
        }
        "PASSWORD_LOGIN_DISABLED" | "OPERATION_NOT_ALLOWED" => Meaning::Denied(format!(
            "sign-in by password is switched off for {place}: enable the provider Email/Password"
        )),
        "PROJECT_DISABLED" | "PROJECT_NOT_FOUND" | "CONFIGURATION_NOT_FOUND" => Meaning::Denied(format!(
            "the project of the API key in {api_key} is disabled, gone, or without Identity Platform: check it"
        )),
        "BLOCKING_FUNCTION_ERROR_RESPONSE" => Meaning::Denied(
            "a blocking function of the project refused the sign-in: check its logs".to_owned(),
        ),
        code if code.contains("CAPTCHA") => Meaning::Denied(format!(
            "sign-in to {place} is protected by reCAPTCHA, which no program can pass: take the protection off sign-in by password"
        )),
        _ => Meaning::Denied("look the code up in Identity Platform's documentation".to_owned()),
    }
}

/// Attempts that come sooner make it worse.
const LATER_SECONDS: u64 = 300;
/// A server that is down may have counted the attempt.
const DOWN_SECONDS: u64 = 30;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use serde_json::json;

    use super::*;

    fn said(body: &str) -> Said {
        let status = StatusCode::FORBIDDEN;
        Said::of(&Reply { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec().into() })
    }

    #[test]
    fn an_api_key_is_blamed_only_where_google_speaks_of_it() {
        let table = [
            ("API key not valid. Please pass a valid API key.", "API_KEY_INVALID", Some(KeyFault::Unknown)),
            ("API key not valid. Please pass a valid API key.", "", Some(KeyFault::Unknown)),
            ("Method doesn't allow unregistered callers. Please use API Key.", "", Some(KeyFault::Unknown)),
            ("Requests to this API are blocked.", "API_KEY_SERVICE_BLOCKED", Some(KeyFault::Restricted)),
            (
                "Requests from referer <empty> are blocked.",
                "API_KEY_HTTP_REFERRER_BLOCKED",
                Some(KeyFault::Restricted),
            ),
            ("The API key has an IP address restriction.", "", Some(KeyFault::Restricted)),
            ("Request is prohibited by organization's policy.", "SECURITY_POLICY_VIOLATED", None),
            ("Quota exceeded for quota metric 'x'.", "RATE_LIMIT_EXCEEDED", None),
            (
                "Identity Toolkit API has not been used in the project of this API key.",
                "SERVICE_DISABLED",
                None,
            ),
            ("INVALID_PASSWORD : the API key is well", "", None),
            ("Forbidden", "", None),
        ];
        for (message, reason, fault) in table {
            let details = if reason.is_empty() { json!([]) } else { json!([{"reason": reason}]) };
            let body = json!({"error": {"code": 403, "message": message, "details": details}});
            assert_eq!(said(&body.to_string()).key_fault(), fault, "{message}");
        }
        assert_eq!(said("<html>403: your API key</html>").key_fault(), None);
    }
}
