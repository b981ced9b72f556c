//! Identity Platform: password sign-in (`identitytoolkit.googleapis.com`) and the refresh of its tokens
//! (`securetoken.googleapis.com`). What goes wrong has HTTP 400 almost always: only the message tells what it was.

mod users;

use http::{Method, StatusCode};
use serde_json::{Value, json};

pub use users::PasswordUser;
pub(super) use users::Users;

use super::Google;
use super::fault::{Endpoint, Fault};
use super::reply::{self, Handled, Reply};
use super::serve::Call;
use super::state::Simulator;
use super::sts::Params;
use super::token::{UserTokenRequest, random_text, seconds_until};

/// What a path of the sign-in API asks for.
pub(super) fn sign_in_endpoint(path: &str) -> Endpoint {
    if path == "/v1/accounts:signInWithPassword" { Endpoint::SignInWithPassword } else { Endpoint::Unknown }
}

/// What a path of the refresh API asks for.
pub(super) fn refresh_endpoint(path: &str) -> Endpoint {
    if path == "/v1/token" { Endpoint::SecureToken } else { Endpoint::Unknown }
}

pub(super) fn handle(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    if call.endpoint == Endpoint::Unknown || call.method != Method::POST {
        return Err(reply::rpc_error(StatusCode::NOT_FOUND, "Method not found.", &[]));
    }
    check_api_key(sim, call)?;
    match call.endpoint {
        Endpoint::SignInWithPassword => sign_in(sim, call, fault),
        _ => refresh(sim, call, fault),
    }
}

/// Users and their sessions.
impl Google {
    /// Changes a user's password, which ends the user's sessions.
    ///
    /// # Panics
    /// Without a user of that e-mail.
    pub fn set_password(&self, email: &str, password: &str) {
        self.sim.users.change(email, |user| user.password = password.into());
        self.sim.users.revoke(email);
    }

    /// Disables a user, or enables it again.
    ///
    /// # Panics
    /// Without a user of that e-mail.
    pub fn set_disabled(&self, email: &str, disabled: bool) {
        self.sim.users.change(email, |user| user.disabled = disabled);
    }

    /// Ends the sessions of a user: their refresh tokens are over, the ID tokens hold until their end.
    pub fn revoke_refresh_tokens(&self, email: &str) {
        self.sim.users.revoke(email);
    }

    /// Whether each refresh gives a new refresh token and the old one is over. Off at the start, as at Google.
    pub fn set_refresh_token_rotation(&self, on: bool) {
        self.sim.users.set_rotation(on);
    }

    /// Whether a refused sign-in hides if it was the e-mail or the password. On at the start, as in new projects.
    pub fn set_enumeration_protection(&self, on: bool) {
        self.sim.users.set_enumeration_protection(on);
    }
}

fn sign_in(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    let body = call.json().filter(Value::is_object).ok_or_else(invalid_json)?;
    check_names(&body)?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|value| !value.is_empty());
    let refuse = |code: &str| refusal(Endpoint::SignInWithPassword, code);
    let email = body.get("email").and_then(Value::as_str).ok_or_else(|| refuse("MISSING_EMAIL"))?;
    if !is_email(email) {
        return Err(refuse("INVALID_EMAIL"));
    }
    let password = text("password").ok_or_else(|| refuse("MISSING_PASSWORD"))?;
    let user = sim.users.sign_in(text("tenantId"), email, password).map_err(refuse)?;
    let mut answer = json!({
        "kind": "identitytoolkit#VerifyPasswordResponse",
        "localId": user.local_id,
        "email": user.email,
        "displayName": "",
        "registered": true,
    });
    if user.mfa {
        let pending = random_text();
        sim.log.issued(&pending);
        answer["mfaPendingCredential"] = json!(pending);
        answer["mfaInfo"] = json!([{
            "phoneInfo": "+*******0100",
            "mfaEnrollmentId": "11111111-2222-4333-8444-555555555555",
            "displayName": "phone",
            "enrolledAt": "2026-01-01T00:00:00Z",
        }]);
    } else if body.get("returnSecureToken") == Some(&json!(true)) {
        let (refresh_token, session) = sim.users.open(&user, sim.now());
        let (token, expires_in) = mint(sim, call.endpoint, &user, session.auth_time, fault);
        sim.log.issued(&refresh_token);
        answer["idToken"] = json!(token);
        answer["refreshToken"] = json!(refresh_token);
        answer["expiresIn"] = json!(expires_in);
    }
    Ok(reply::json(StatusCode::OK, &answer))
}

fn refresh(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    let params = Params::of(call).ok_or_else(invalid_json)?;
    let text = |name: &str| params.get(name).filter(|value| !value.is_empty());
    let refuse = |code: &str| refusal(Endpoint::SecureToken, code);
    let grant_type = text("grant_type").ok_or_else(|| refuse("MISSING_GRANT_TYPE"))?;
    if grant_type != "refresh_token" {
        return Err(refuse("INVALID_GRANT_TYPE"));
    }
    let token = text("refresh_token").ok_or_else(|| refuse("MISSING_REFRESH_TOKEN"))?;
    let (user, session, refresh_token) = sim.users.refresh(&token).map_err(refuse)?;
    let (token, expires_in) = mint(sim, call.endpoint, &user, session.auth_time, fault);
    sim.log.issued(&refresh_token);
    let answer = json!({
        "access_token": token,
        "expires_in": expires_in,
        "token_type": "Bearer",
        "refresh_token": refresh_token,
        "id_token": token,
        "user_id": user.local_id,
        "project_id": sim.options.project_number.to_string(),
    });
    Ok(reply::json(StatusCode::OK, &answer))
}

/// An ID token and its life in seconds, which these APIs give as a string.
fn mint(
    sim: &Simulator,
    endpoint: Endpoint,
    user: &PasswordUser,
    auth_time: jiff::Timestamp,
    fault: Option<&Fault>,
) -> (String, String) {
    let (token, expires) = sim.mint_user_token(&UserTokenRequest { endpoint, user, auth_time }, fault);
    (token, seconds_until(expires, sim.now()).to_string())
}

fn check_api_key(sim: &Simulator, call: &Call) -> Result<(), Reply> {
    let query = call.query();
    match query.get("key").or_else(|| call.header("x-goog-api-key")).filter(|key| !key.is_empty()) {
        None => {
            let text = "The request is missing a valid API key.";
            Err(key_refusal(call.endpoint, StatusCode::FORBIDDEN, text, None))
        }
        Some(key) if sim.options.api_keys.iter().any(|known| known == key) => Ok(()),
        Some(_) => {
            let text = "API key not valid. Please pass a valid API key.";
            Err(key_refusal(call.endpoint, StatusCode::BAD_REQUEST, text, Some("API_KEY_INVALID")))
        }
    }
}

/// Google's APIs refuse what they do not know, so that a misspelt field is seen.
fn check_names(body: &Value) -> Result<(), Reply> {
    let unknown =
        body.as_object().into_iter().flatten().find(|(name, _)| !SIGN_IN_FIELDS.contains(&name.as_str()));
    let Some((name, _)) = unknown else { return Ok(()) };
    let text = format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field.");
    Err(reply::rpc_error(StatusCode::BAD_REQUEST, &text, &[]))
}

fn is_email(text: &str) -> bool {
    let parts = text.split_once('@');
    text.len() < 256 && parts.is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty())
}

fn invalid_json() -> Reply {
    reply::rpc_error(StatusCode::BAD_REQUEST, "Invalid JSON payload received. Unexpected token.", &[])
}

/// A refusal by its message, `CODE` or `CODE : text`, in the shape of the API that was asked.
pub(super) fn refusal(endpoint: Endpoint, message: &str) -> Reply {
    match endpoint {
        Endpoint::SignInWithPassword => {
            let errors = json!([{ "message": message, "domain": "global", "reason": "invalid" }]);
            let error = json!({ "code": 400, "message": message, "errors": errors });
            reply::json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
        }
        _ => reply::rpc_error(StatusCode::BAD_REQUEST, message, &[]),
    }
}

/// The refusal to an API key that is good, but not for this API.
pub(super) fn blocked(endpoint: Endpoint) -> Reply {
    let method = match endpoint {
        Endpoint::SignInWithPassword => {
            "identitytoolkit method google.cloud.identitytoolkit.v1.AuthenticationService.SignInWithPassword"
        }
        _ => "securetoken.googleapis.com method google.identity.identitytoolkit.v1.SecureToken.GrantToken",
    };
    let text = format!("Requests to this API {method} are blocked.");
    key_refusal(endpoint, StatusCode::FORBIDDEN, &text, Some("API_KEY_SERVICE_BLOCKED"))
}

/// A refusal to the API key, whose `reason` is in the details.
fn key_refusal(endpoint: Endpoint, status: StatusCode, text: &str, reason: Option<&str>) -> Reply {
    let service = match endpoint {
        Endpoint::SignInWithPassword => "identitytoolkit.googleapis.com",
        _ => "securetoken.googleapis.com",
    };
    let info =
        reason.map(|reason| reply::error_info(reason, "googleapis.com", &json!({ "service": service })));
    let mut error = reply::rpc_status(status, text, info.as_slice());
    if endpoint == Endpoint::SignInWithPassword {
        let reason = if status == StatusCode::FORBIDDEN { "forbidden" } else { "badRequest" };
        error["errors"] = json!([{ "message": text, "domain": "global", "reason": reason }]);
    }
    reply::json(status, &json!({ "error": error }))
}

/// The fields of `SignInWithPasswordRequest`.
const SIGN_IN_FIELDS: [&str; 11] = [
    "email",
    "password",
    "returnSecureToken",
    "tenantId",
    "captchaResponse",
    "captchaChallenge",
    "clientType",
    "recaptchaVersion",
    "pendingIdToken",
    "instanceId",
    "delegatedProjectNumber",
];
