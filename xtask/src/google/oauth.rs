//! The OAuth token endpoint: service account assertions and users' refresh tokens.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::certs::{CERTS_V1_PATH, ROBOT_X509_PATH};
use super::fault::{Endpoint, Fault};
use super::form::Form;
use super::jwt::Jwt;
use super::keys::{SigningKey, jwks};
use super::options::User;
use super::policy::Identity;
use super::reply::{self, Handled, Reply};
use super::serve::Call;
use super::state::{Simulator, lock, unique_id};
use super::token::{IdTokenRequest, seconds_until};

/// The endpoint's path.
pub(super) const PATH: &str = "/token";

pub(super) fn handle(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    if call.method != Method::POST {
        return Err(refuse("invalid_request", "Bad Request"));
    }
    let form = call.form();
    match form.get("grant_type") {
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => exchange_assertion(sim, &form, fault),
        Some("refresh_token") => refresh(sim, &form, fault),
        other => {
            let text = format!("Invalid grant_type: {}", other.unwrap_or_default());
            Err(refuse("unsupported_grant_type", &text))
        }
    }
}

impl Simulator {
    /// The endpoint's whole URL.
    pub(super) fn oauth_token_url(&self) -> String {
        format!("{}{PATH}", self.origins.oauth)
    }

    /// Makes a key for a service account, which then exists; gives the text of the key file.
    pub(super) fn create_account_key(&self, email: &str) -> anyhow::Result<String> {
        let key = SigningKey::generate(email, self.now())?;
        let origin = &self.origins.oauth;
        let file = json!({
            "type": "service_account",
            "project_id": self.options.project_id,
            "private_key_id": key.kid(),
            "private_key": key.private_pem(),
            "client_email": email,
            "client_id": unique_id(email),
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": self.oauth_token_url(),
            "auth_provider_x509_cert_url": format!("{origin}{CERTS_V1_PATH}"),
            "client_x509_cert_url": format!("{origin}{ROBOT_X509_PATH}{}", email.replace('@', "%40")),
            "universe_domain": self.options.universe_domain.as_deref().unwrap_or("googleapis.com"),
        });
        lock(&self.accounts).insert(email.into());
        lock(&self.account_keys).entry(email.into()).or_default().user.push(key);
        Ok(serde_json::to_string_pretty(&file)?)
    }
}

fn exchange_assertion(sim: &Simulator, form: &Form, fault: Option<&Fault>) -> Handled {
    let assertion = form.get("assertion").and_then(Jwt::parse);
    let assertion = assertion.ok_or_else(|| refuse("invalid_request", "Bad Request"))?;
    let email = check_assertion(sim, &assertion)?;
    let claim = |name| Jwt::text(&assertion.claims, name).filter(|value| !value.is_empty());
    match (claim("target_audience"), claim("scope")) {
        (Some(audience), None) => {
            let request = IdTokenRequest { audience, ..id_token_of(&email) };
            let (token, _) = sim.mint_id_token(&request, fault);
            Ok(reply::json(StatusCode::OK, &json!({ "id_token": token })))
        }
        (None, Some(scope)) => {
            let scopes = scope.split_whitespace().map(Into::into).collect();
            let answer = access_token(sim, Identity::ServiceAccount(email), scopes, fault);
            Ok(reply::json(StatusCode::OK, &answer.into()))
        }
        _ => Err(refuse("invalid_scope", "Invalid OAuth scope or ID token audience provided.")),
    }
}

/// The rules for assertions; gives the account.
fn check_assertion(sim: &Simulator, assertion: &Jwt<'_>) -> Result<String, Reply> {
    let email = sim.account_email(Jwt::text(&assertion.claims, "iss").unwrap_or_default());
    if !sim.account_exists(&email) {
        return Err(refuse("invalid_grant", "Invalid grant: account not found"));
    }
    let keys = jwks(lock(&sim.account_keys).entry(email.clone()).or_default().user.iter());
    assertion.verify(&keys).map_err(|_| refuse("invalid_grant", "Invalid JWT Signature."))?;
    let expected = [sim.oauth_token_url(), GOOGLE_URL.into(), OLD_GOOGLE_URL.into()];
    if !assertion.audiences().iter().any(|audience| expected.iter().any(|url| url == audience)) {
        return Err(refuse("invalid_grant", "Invalid JWT: Failed audience check."));
    }
    let now = sim.now().as_second();
    match (assertion.seconds("iat"), assertion.seconds("exp")) {
        (Some(issued), Some(end)) if issued <= now + SKEW && end > now - SKEW && end - issued <= HOUR => {
            Ok(email)
        }
        _ => Err(refuse("invalid_grant", SHORT_LIVED)),
    }
}

fn refresh(sim: &Simulator, form: &Form, fault: Option<&Fault>) -> Handled {
    let client_id = form.get("client_id").unwrap_or_default();
    let of_client = |user: &&User| user.client_id == client_id;
    let users: Vec<_> = sim.options.users.iter().filter(of_client).collect();
    if users.is_empty() {
        return Err(refuse_client("The OAuth client was not found."));
    }
    if !users.iter().any(|user| Some(user.client_secret.as_str()) == form.get("client_secret")) {
        return Err(refuse_client("Unauthorized"));
    }
    let user = users.into_iter().find(|user| {
        Some(user.refresh_token.as_str()) == form.get("refresh_token")
            && !lock(&sim.revoked_refresh_tokens).contains(&user.refresh_token)
    });
    let user = user.ok_or_else(|| refuse("invalid_grant", "Token has been expired or revoked."))?;
    let mut answer = access_token(sim, Identity::User(user.email.clone()), user.scopes.clone(), fault);
    answer.insert("scope".into(), json!(user.scopes.join(" ")));
    if user.scopes.iter().any(|scope| scope == "openid") {
        let request = IdTokenRequest {
            audience: client_id,
            authorized_party: Some(client_id),
            ..id_token_of(&user.email)
        };
        answer.insert("id_token".into(), json!(sim.mint_id_token(&request, fault).0));
    }
    Ok(reply::json(StatusCode::OK, &answer.into()))
}

fn id_token_of(email: &str) -> IdTokenRequest<'_> {
    IdTokenRequest {
        endpoint: Endpoint::OauthToken,
        audience: "",
        email,
        include_email: true,
        authorized_party: None,
        google: None,
    }
}

fn access_token(
    sim: &Simulator,
    identity: Identity,
    scopes: Vec<String>,
    fault: Option<&Fault>,
) -> Map<String, Value> {
    let (token, end) = sim.mint_access_token(identity, scopes, sim.settings().access_token_lifetime, fault);
    let expires_in = seconds_until(end, sim.now());
    Map::from_iter([
        ("access_token".into(), json!(token)),
        ("expires_in".into(), json!(expires_in)),
        ("token_type".into(), json!("Bearer")),
    ])
}

fn refuse(code: &str, text: &str) -> Reply {
    reply::oauth_error(StatusCode::BAD_REQUEST, code, text)
}

fn refuse_client(text: &str) -> Reply {
    reply::oauth_error(StatusCode::UNAUTHORIZED, "invalid_client", text)
}

/// Some libraries name Google's endpoint in the assertion wherever they send it.
const GOOGLE_URL: &str = "https://oauth2.googleapis.com/token";

const OLD_GOOGLE_URL: &str = "https://www.googleapis.com/oauth2/v4/token";

const SHORT_LIVED: &str = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";

const SKEW: i64 = 300;

const HOUR: i64 = 3600;
