//! The Security Token Service: a Kubernetes token for a federated access token.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::fault::{Endpoint, Fault};
use super::form::Form;
use super::jwt::{Jwt, Refused};
use super::policy::Identity;
use super::reply::{self, Handled, Reply};
use super::serve::Call;
use super::state::{Simulator, lock};
use super::token::seconds_until;

/// A workload identity provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The `audience` that the exchange names it by.
    pub audience: String,
    /// The number of the pool's project.
    pub project_number: u64,
    /// The pool's ID.
    pub pool: String,
    /// `iss` of the tokens it takes.
    pub issuer: String,
    /// `aud` of the tokens it takes: any of these.
    pub allowed_audiences: Vec<String>,
    /// The issuer's keys; `None`: signatures are not looked at.
    pub jwks: Option<Value>,
    /// The attribute condition, as the subjects that pass; empty: all do.
    pub allowed_subjects: Vec<String>,
    /// Whether `google.subject` is GKE's `ns/NS/sa/NAME`, not the token's `sub` itself.
    pub gke_subjects: bool,
}

impl Provider {
    /// A provider of a pool that somebody set up, with the default audiences and `google.subject=assertion.sub`.
    #[must_use]
    pub fn pool(project_number: u64, pool: &str, provider: &str, issuer: &str) -> Self {
        let audience = format!(
            "//iam.googleapis.com/projects/{project_number}/locations/global/workloadIdentityPools/{pool}/providers/{provider}"
        );
        Self {
            allowed_audiences: vec![audience.clone(), format!("https:{audience}")],
            audience,
            project_number,
            pool: pool.into(),
            issuer: issuer.into(),
            jwks: None,
            allowed_subjects: Vec::new(),
            gke_subjects: false,
        }
    }

    /// The pool that a GKE cluster has by itself. The issuer can be replaced to let another cluster play this one.
    #[must_use]
    pub fn gke(project_id: &str, project_number: u64, location: &str, cluster: &str) -> Self {
        let pool = format!("{project_id}.svc.id.goog");
        let issuer = format!(
            "https://container.googleapis.com/v1/projects/{project_id}/locations/{location}/clusters/{cluster}"
        );
        Self {
            audience: format!("identitynamespace:{pool}:{issuer}"),
            project_number,
            allowed_audiences: vec![pool.clone()],
            pool,
            issuer,
            jwks: None,
            allowed_subjects: Vec::new(),
            gke_subjects: true,
        }
    }

    /// The same provider with the issuer's keys: signatures count.
    #[must_use]
    pub fn with_jwks(mut self, jwks: Value) -> Self {
        self.jwks = Some(jwks);
        self
    }

    /// The mapped `google.subject`.
    fn subject(&self, sub: &str) -> String {
        let account = sub.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        match account {
            Some((namespace, name)) if self.gke_subjects => format!("ns/{namespace}/sa/{name}"),
            _ => sub.into(),
        }
    }
}

/// What a path of this API asks for.
pub(super) fn endpoint(path: &str) -> Endpoint {
    match path {
        "/v1/token" | "/v1/identitybindingtoken" => Endpoint::Sts,
        _ => Endpoint::Unknown,
    }
}

pub(super) fn handle(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    if call.endpoint != Endpoint::Sts || call.method != Method::POST {
        return Err(reply::rpc_error(StatusCode::NOT_FOUND, "Method not found.", &[]));
    }
    if call.headers.contains_key(header::AUTHORIZATION) {
        return Err(refuse(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "Client authentication is not expected here.",
        ));
    }
    let params = Params::of(call).ok_or_else(|| invalid_request("Malformed request body."))?;
    check_kind(&params)?;
    let provider = &provider(sim, &params)?;
    let token = params.get("subject_token").unwrap_or_default();
    let jwt =
        Jwt::parse(&token).ok_or_else(|| invalid_request("Unable to parse the subject token as a JWT."))?;
    let subject = check_token(sim, provider, &jwt)?;
    let scopes = params.get("scope").unwrap_or_default().split_whitespace().map(Into::into).collect();
    let identity =
        Identity::Federated { project_number: provider.project_number, pool: provider.pool.clone(), subject };
    let left = seconds_until_end(&jwt, sim);
    let lifetime = sim.settings().access_token_lifetime.min(left);
    let (access_token, expires) = sim.mint_access_token(identity, scopes, lifetime, fault);
    let answer = json!({
        "access_token": access_token,
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "token_type": "Bearer",
        "expires_in": seconds_until(expires, sim.now()),
    });
    Ok(reply::json(StatusCode::OK, &answer))
}

/// The parameters, by their names in a form; JSON bodies may use those or their camel-case twins.
pub(super) enum Params {
    Form(Form),
    Json(Value),
}

impl Params {
    pub(super) fn of(call: &Call) -> Option<Self> {
        let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
        match content_type.split(';').next().map(str::trim) {
            Some("application/json") => call.json().map(Self::Json),
            Some("application/x-www-form-urlencoded") => Some(Self::Form(call.form())),
            _ => None,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        match self {
            Self::Form(form) => form.get(name).map(Into::into),
            Self::Json(body) => body.get(camel(name)).or_else(|| body.get(name))?.as_str().map(Into::into),
        }
    }
}

/// Grant and token types.
fn check_kind(params: &Params) -> Result<(), Reply> {
    let is = |name: &str, allowed: &[&str]| {
        params.get(name).is_some_and(|value| allowed.contains(&value.as_str()))
    };
    if !is("grant_type", &["urn:ietf:params:oauth:grant-type:token-exchange"]) {
        return Err(invalid_request("Invalid value for \"grant_type\"."));
    }
    if !is("requested_token_type", &[ACCESS_TOKEN_TYPE]) {
        return Err(invalid_request("Invalid value for \"requested_token_type\"."));
    }
    let subject_types = ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];
    if !is("subject_token_type", &subject_types) {
        return Err(invalid_request("Invalid value for \"subject_token_type\"."));
    }
    match params.get("scope") {
        Some(scope) if !scope.trim().is_empty() => Ok(()),
        _ => Err(refuse(StatusCode::BAD_REQUEST, "invalid_scope", "Scope must be provided.")),
    }
}

fn provider(sim: &Simulator, params: &Params) -> Result<Provider, Reply> {
    let audience = params.get("audience").unwrap_or_default();
    lock(&sim.providers).iter().find(|provider| provider.audience == audience).cloned().ok_or_else(|| {
        refuse(
            StatusCode::BAD_REQUEST,
            "invalid_target",
            "The target service indicated by the \"audience\" parameters is invalid. This might either be because the \
             pool or provider is disabled or deleted or because it doesn't exist.",
        )
    })
}

/// The rules for subject tokens; gives the mapped subject.
fn check_token(sim: &Simulator, provider: &Provider, jwt: &Jwt<'_>) -> Result<String, Reply> {
    let header = |name| Jwt::text(&jwt.header, name);
    let algorithm = header("alg").is_some_and(|alg| ["RS256", "ES256"].contains(&alg));
    if header("kid").is_none() || !algorithm {
        return Err(invalid_grant("The ID Token must have a kid and be signed by RS256 or ES256."));
    }
    let issuer = Jwt::text(&jwt.claims, "iss").unwrap_or_default();
    if issuer != provider.issuer {
        let text =
            format!("The issuer in ID Token {issuer} does not match the expected ones: {}", provider.issuer);
        return Err(invalid_grant(&text));
    }
    let audiences = jwt.audiences();
    if !audiences.iter().any(|audience| provider.allowed_audiences.iter().any(|allowed| allowed == audience))
    {
        let text = format!(
            "The audience in ID Token [{}] does not match the expected audience {}.",
            audiences.join(", "),
            provider.allowed_audiences.join(" or ")
        );
        return Err(invalid_grant(&text));
    }
    check_times(sim, jwt)?;
    match provider.jwks.as_ref().map_or(Ok(()), |jwks| jwt.verify(jwks)) {
        Ok(()) => check_subject(provider, jwt),
        Err(Refused::NoKey) => Err(invalid_grant("Error connecting to the given credential's issuer.")),
        Err(Refused::Signature) => Err(invalid_grant("Invalid ID Token signature.")),
    }
}

fn check_times(sim: &Simulator, jwt: &Jwt<'_>) -> Result<(), Reply> {
    let now = sim.now().as_second();
    match (jwt.seconds("iat"), jwt.seconds("exp")) {
        (Some(issued), Some(end)) if issued <= now && now - issued <= DAY && now < end => Ok(()),
        (Some(issued), Some(_)) if issued > now => {
            Err(invalid_grant(&format!("ID Token issued at {issued} is not yet valid.")))
        }
        (Some(issued), Some(_)) => {
            Err(invalid_grant(&format!("ID Token issued at {issued} is stale to sign-in.")))
        }
        _ => Err(invalid_grant("The ID Token must have the claims iat and exp.")),
    }
}

fn check_subject(provider: &Provider, jwt: &Jwt<'_>) -> Result<String, Reply> {
    let subject = provider.subject(Jwt::text(&jwt.claims, "sub").unwrap_or_default());
    if subject.is_empty() {
        return Err(invalid_grant("The mapped attribute google.subject must not be empty."));
    }
    if subject.len() > MAX_SUBJECT {
        return Err(invalid_request(
            "The size of mapped attribute google.subject exceeds the 127 bytes limit.",
        ));
    }
    if !provider.allowed_subjects.is_empty() && !provider.allowed_subjects.contains(&subject) {
        let text = "The given credential is rejected by the attribute condition.";
        return Err(refuse(StatusCode::BAD_REQUEST, "unauthorized_client", text));
    }
    Ok(subject)
}

/// The subject token's remaining life, which the answer's token does not outlive.
fn seconds_until_end(jwt: &Jwt<'_>, sim: &Simulator) -> std::time::Duration {
    let left = jwt.seconds("exp").unwrap_or_default() - sim.now().as_second();
    std::time::Duration::from_secs(u64::try_from(left).unwrap_or_default())
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (head, tail) = word.split_at(usize::from(!word.is_empty()));
        text + &head.to_ascii_uppercase() + tail
    })
}

fn invalid_grant(text: &str) -> Reply {
    refuse(StatusCode::BAD_REQUEST, "invalid_grant", text)
}

fn invalid_request(text: &str) -> Reply {
    refuse(StatusCode::BAD_REQUEST, "invalid_request", text)
}

fn refuse(status: StatusCode, code: &str, text: &str) -> Reply {
    reply::oauth_error(status, code, text)
}

const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

const DAY: i64 = 86_400;

const MAX_SUBJECT: usize = 127;
