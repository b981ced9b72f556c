//! The IAM Service Account Credentials API: `generateIdToken`, `generateAccessToken` and `signJwt`.

use std::time::Duration;

use http::{Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fault::{Endpoint, Fault};
use super::form::decode_segment;
use super::jwt::Jwt;
use super::keys::{SigningKey, jwks};
use super::options::CLOUD_PLATFORM;
use super::policy::{Identity, Permission};
use super::reply::{self, Handled, Reply};
use super::serve::Call;
use super::state::{AccountKeys, Simulator, lock};
use super::token::{AccessToken, IdTokenRequest, sign_spoilt, spoil_claims};

/// What a path asks for.
pub(super) fn endpoint(path: &str) -> Endpoint {
    match Target::of(path).map(|target| target.method) {
        Some(Verb::GenerateIdToken) => Endpoint::GenerateIdToken,
        Some(Verb::GenerateAccessToken) => Endpoint::GenerateAccessToken,
        Some(Verb::SignJwt) => Endpoint::SignJwt,
        None => Endpoint::Unknown,
    }
}

pub(super) fn handle(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    let target = Target::of(call.uri.path()).filter(|_| call.method == Method::POST);
    let target = target.ok_or_else(|| reply::rpc_error(StatusCode::NOT_FOUND, "Method not found.", &[]))?;
    let caller = caller(sim, call, &target)?;
    if target.project != "-" {
        return Err(invalid("name", "The project of the resource name must be the wildcard `-`."));
    }
    let body = call.json().filter(Value::is_object).ok_or_else(|| {
        reply::rpc_error(StatusCode::BAD_REQUEST, "Invalid JSON payload received. Unexpected token.", &[])
    })?;
    match target.method {
        Verb::GenerateIdToken => generate_id_token(sim, &caller, &target, &body, fault),
        Verb::GenerateAccessToken => generate_access_token(sim, &caller, &target, &body, fault),
        Verb::SignJwt => sign_jwt(sim, &caller, &target, &body, fault),
    }
}

/// The account and the method of a path.
pub(super) struct Target {
    project: String,
    /// E-mail or unique ID, as given.
    pub(super) account: String,
    method: Verb,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    GenerateIdToken,
    GenerateAccessToken,
    SignJwt,
}

impl Target {
    /// Reads `/v1/projects/P/serviceAccounts/A:METHOD`.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (project, name) = path.strip_prefix("/v1/projects/")?.split_once("/serviceAccounts/")?;
        let (account, method) = name.rsplit_once(':')?;
        let method = match method {
            "generateIdToken" => Verb::GenerateIdToken,
            "generateAccessToken" => Verb::GenerateAccessToken,
            "signJwt" => Verb::SignJwt,
            _ => return None,
        };
        Some(Self { project: decode_segment(project), account: decode_segment(account), method })
    }

    /// The permission that the method needs, in IAM's words.
    pub(super) fn permission(&self) -> &'static str {
        self.needs().name()
    }

    fn needs(&self) -> Permission {
        match self.method {
            Verb::GenerateIdToken => Permission::GetOpenIdToken,
            Verb::GenerateAccessToken => Permission::GetAccessToken,
            Verb::SignJwt => Permission::SignJwt,
        }
    }

    /// The method's full name, as error details give it.
    fn full_name(&self) -> String {
        let method = match self.method {
            Verb::GenerateIdToken => "GenerateIdToken",
            Verb::GenerateAccessToken => "GenerateAccessToken",
            Verb::SignJwt => "SignJwt",
        };
        format!("google.iam.credentials.v1.IAMCredentials.{method}")
    }
}

fn generate_id_token(
    sim: &Simulator,
    caller: &AccessToken,
    target: &Target,
    body: &Value,
    fault: Option<&Fault>,
) -> Handled {
    let audience = body.get("audience").and_then(Value::as_str).unwrap_or_default();
    if audience.is_empty() {
        return Err(invalid("audience", "Audience must not be empty."));
    }
    let email = authorise(sim, caller, target, body)?;
    let request = IdTokenRequest {
        endpoint: Endpoint::GenerateIdToken,
        audience,
        email: &email,
        include_email: flag(body, "includeEmail"),
        authorized_party: flag(body, "useEmailAzp").then_some(email.as_str()),
        google: None,
    };
    let (token, _) = sim.mint_id_token(&request, fault);
    Ok(reply::json(StatusCode::OK, &json!({ "token": token })))
}

fn generate_access_token(
    sim: &Simulator,
    caller: &AccessToken,
    target: &Target,
    body: &Value,
    fault: Option<&Fault>,
) -> Handled {
    let scopes = texts(body, "scope");
    if scopes.is_empty() {
        return Err(invalid("scope", "At least one scope is required."));
    }
    let longest = sim.settings().access_token_lifetime;
    let lifetime = match body.get("lifetime") {
        None => longest,
        Some(lifetime) => asked_lifetime(lifetime)?.min(longest),
    };
    let email = authorise(sim, caller, target, body)?;
    let (token, expires) = sim.mint_access_token(Identity::ServiceAccount(email), scopes, lifetime, fault);
    let form = if sim.options.whole_seconds { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%9fZ" };
    let end = expires.strftime(form).to_string();
    let answer = json!({ "accessToken": token, "expireTime": end });
    Ok(reply::json(StatusCode::OK, &answer))
}

fn sign_jwt(
    sim: &Simulator,
    caller: &AccessToken,
    target: &Target,
    body: &Value,
    fault: Option<&Fault>,
) -> Handled {
    let payload = body.get("payload").and_then(Value::as_str).unwrap_or_default();
    let mut claims: Value = serde_json::from_str(payload).unwrap_or_default();
    if !claims.is_object() {
        return Err(invalid("payload", "The payload must be a JSON object."));
    }
    let latest = sim.now() + SIGNED_JWT_LIMIT;
    if claims.get("exp").and_then(Value::as_i64).is_some_and(|exp| exp > latest.as_second()) {
        return Err(invalid("payload", "The claim exp must be no more than 12 hours in the future."));
    }
    let email = authorise(sim, caller, target, body)?;
    if let Some(fault) = fault {
        spoil_claims(&mut claims, fault);
    }
    let new_key = || SigningKey::generate(&email, sim.now()).map_err(|_| internal());
    let mut keys = lock(&sim.account_keys);
    let system = &mut keys.entry(email.clone()).or_default().system;
    let published = match system {
        Some(key) => key,
        None => system.insert(new_key()?),
    };
    let unpublished = if fault == Some(&Fault::UnknownKey) { Some(new_key()?) } else { None };
    let key = unpublished.as_ref().unwrap_or(published);
    let signed = sign_spoilt(key, &claims, fault);
    sim.log.issued(&signed);
    Ok(reply::json(StatusCode::OK, &json!({ "keyId": key.kid(), "signedJwt": signed })))
}

/// Who calls, by the bearer token.
fn caller(sim: &Simulator, call: &Call, target: &Target) -> Result<AccessToken, Reply> {
    let facts = json!({ "method": target.full_name(), "service": "iamcredentials.googleapis.com" });
    let because = |reason: &str| [reply::error_info(reason, "googleapis.com", &facts)];
    let Some(authorization) = call.header(header::AUTHORIZATION) else {
        return Err(unauthenticated(MISSING_TEXT, &because("CREDENTIALS_MISSING")));
    };
    let bearer = authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let known = bearer.and_then(|(_, token)| {
        let known = lock(&sim.access_tokens).get(token).cloned();
        known.or_else(|| self_signed(sim, token))
    });
    let Some(caller) = known else {
        return Err(unauthenticated(INVALID_TEXT, &[]));
    };
    if caller.expires <= sim.now() {
        return Err(unauthenticated(INVALID_TEXT, &because("ACCESS_TOKEN_EXPIRED")));
    }
    if !caller.scopes.iter().any(|scope| SCOPES.contains(&scope.as_str())) {
        let text = "Request had insufficient authentication scopes.";
        return Err(reply::rpc_error(
            StatusCode::FORBIDDEN,
            text,
            &because("ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
        ));
    }
    Ok(caller)
}

/// The bearer as a JWT that a service account signed for itself, which stands for an access token where the OAuth
/// endpoint is not to be had, as in other universes.
fn self_signed(sim: &Simulator, token: &str) -> Option<AccessToken> {
    let jwt = Jwt::parse(token)?;
    let email = Jwt::text(&jwt.claims, "iss").filter(|email| sim.account_exists(email))?;
    let keys = jwks(lock(&sim.account_keys).get(email).into_iter().flat_map(AccountKeys::all));
    jwt.verify(&keys).ok()?;
    let (issued, end) = (jwt.seconds("iat")?, jwt.seconds("exp")?);
    let holds = Jwt::text(&jwt.claims, "sub") == Some(email)
        && issued <= sim.now().as_second() + SKEW
        && end - issued <= SELF_SIGNED_LIFE;
    let scopes = Jwt::text(&jwt.claims, "scope").unwrap_or_default();
    holds.then_some(AccessToken {
        identity: Identity::ServiceAccount(email.into()),
        scopes: scopes.split_whitespace().map(Into::into).collect(),
        expires: Timestamp::from_second(end).ok()?,
    })
}

/// Goes along the delegates, each link by itself, to the target; gives the target's e-mail.
fn authorise(sim: &Simulator, caller: &AccessToken, target: &Target, body: &Value) -> Result<String, Reply> {
    let mut holder = caller.identity.clone();
    for delegate in texts(body, "delegates") {
        let account = delegate.strip_prefix("projects/-/serviceAccounts/").ok_or_else(|| {
            invalid("delegates", "Delegates must have the form `projects/-/serviceAccounts/{ACCOUNT}`.")
        })?;
        let email = link(sim, &holder, Permission::ImplicitDelegation, account)?;
        holder = Identity::ServiceAccount(email);
    }
    link(sim, &holder, target.needs(), &target.account)
}

/// Permission comes before existence: who may not, does not learn what exists.
fn link(sim: &Simulator, holder: &Identity, permission: Permission, account: &str) -> Result<String, Reply> {
    let email = sim.account_email(account);
    if !sim.permits(holder, permission, &email) {
        return Err(permission_denied(permission.name()));
    }
    if !sim.account_exists(&email) {
        return Err(no_such_account(&email));
    }
    Ok(email)
}

/// IAM's refusal, which is the same whether or not the account exists.
pub(super) fn permission_denied(permission: &str) -> Reply {
    let text = format!("Permission '{permission}' denied on resource (or it may not exist).");
    let info = reply::error_info(
        "IAM_PERMISSION_DENIED",
        "iam.googleapis.com",
        &json!({ "permission": permission }),
    );
    reply::rpc_error(StatusCode::FORBIDDEN, &text, &[info])
}

/// The answer to who could use the account if it existed.
pub(super) fn no_such_account(account: &str) -> Reply {
    let text = format!("Not found; Gaia id not found for email {account}");
    reply::rpc_error(StatusCode::NOT_FOUND, &text, &[])
}

fn unauthenticated(text: &str, details: &[Value]) -> Reply {
    let reply = reply::rpc_error(StatusCode::UNAUTHORIZED, text, details);
    reply::with_header(reply, header::WWW_AUTHENTICATE, "Bearer realm=\"https://accounts.google.com/\"")
}

fn invalid(field: &str, description: &str) -> Reply {
    let violations = json!({
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{ "field": field, "description": description }],
    });
    reply::rpc_error(StatusCode::BAD_REQUEST, "Request contains an invalid argument.", &[violations])
}

fn internal() -> Reply {
    reply::rpc_error(StatusCode::INTERNAL_SERVER_ERROR, "Internal error encountered.", &[])
}

/// A boolean; some clients send it as a string.
fn flag(body: &Value, name: &str) -> bool {
    match body.get(name) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

fn texts(body: &Value, name: &str) -> Vec<String> {
    let entries = body.get(name).and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

/// Reads `3600s`, up to an hour.
fn asked_lifetime(value: &Value) -> Result<Duration, Reply> {
    let seconds = value.as_str().and_then(|text| text.strip_suffix('s')).and_then(|text| text.parse().ok());
    match seconds {
        Some(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err(invalid("lifetime", "The lifetime must be between 1s and 3600s.")),
    }
}

/// Either scope opens this API.
const SCOPES: [&str; 2] = [CLOUD_PLATFORM, "https://www.googleapis.com/auth/iam"];

/// How far a clock that signs may be ahead, in seconds.
const SKEW: i64 = 300;

/// The longest life of a self-signed JWT, in seconds.
const SELF_SIGNED_LIFE: i64 = 3600;

const SIGNED_JWT_LIMIT: SignedDuration = SignedDuration::from_hours(12);

const MISSING_TEXT: &str = "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";

const INVALID_TEXT: &str = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";
