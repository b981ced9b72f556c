//! Published keys: Google's as a JWKS and as certificates, and those of each service account.

use http::{Method, StatusCode, header};
use serde_json::Value;

use super::fault::Endpoint;
use super::form::decode_segment;
use super::keys::{SigningKey, certificates, jwks};
use super::reply::{self, Handled};
use super::serve::Call;
use super::state::{AccountKeys, Simulator, lock};

/// What a path of this API asks for.
pub(super) fn endpoint(path: &str) -> Endpoint {
    match path {
        JWKS_PATH => Endpoint::Jwks,
        CERTS_V1_PATH => Endpoint::CertsV1,
        _ if account_keys(path).is_some() => Endpoint::ServiceAccountKeys,
        _ => Endpoint::Unknown,
    }
}

pub(super) fn handle(sim: &Simulator, call: &Call) -> Handled {
    if call.method != Method::GET {
        return Err(not_found());
    }
    let keys = match call.endpoint {
        Endpoint::Jwks => jwks(lock(&sim.keys).published()),
        Endpoint::CertsV1 => certificates(lock(&sim.keys).published()),
        _ => published_by_account(sim, call.uri.path()).ok_or_else(not_found)?,
    };
    let max_age = sim.settings().jwks_max_age.as_secs();
    let reply = reply::json(StatusCode::OK, &keys);
    Ok(reply::with_header(reply, header::CACHE_CONTROL, &format!("public, max-age={max_age}")))
}

/// The two forms in which an account's keys are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Jwk,
    X509,
}

impl Form {
    fn of<'a>(self, keys: impl Iterator<Item = &'a SigningKey>) -> Value {
        match self {
            Self::Jwk => jwks(keys),
            Self::X509 => certificates(keys),
        }
    }
}

/// The form and the account that a path asks for.
fn account_keys(path: &str) -> Option<(Form, String)> {
    let of = |prefix: &str, form| Some((form, decode_segment(path.strip_prefix(prefix)?)));
    of(ACCOUNT_JWKS_PATH, Form::Jwk)
        .or_else(|| of(SECURE_TOKEN_JWKS_PATH, Form::Jwk))
        .or_else(|| of("/service_accounts/v1/metadata/x509/", Form::X509))
        .or_else(|| of(ROBOT_X509_PATH, Form::X509))
}

fn published_by_account(sim: &Simulator, path: &str) -> Option<Value> {
    let (form, email) = account_keys(path)?;
    if email == SECURE_TOKEN_ACCOUNT {
        let keys = lock(sim.secure_token_keys());
        return Some(form.of(keys.published()));
    }
    if !sim.account_exists(&email) {
        return None;
    }
    let keys = lock(&sim.account_keys);
    let keys = keys.get(&email).into_iter().flat_map(AccountKeys::all);
    Some(form.of(keys))
}

fn not_found() -> reply::Reply {
    reply::rpc_error(StatusCode::NOT_FOUND, "Requested entity was not found.", &[])
}

/// Google's keys as a JWKS.
pub(super) const JWKS_PATH: &str = "/oauth2/v3/certs";

/// Google's keys as certificates.
pub(super) const CERTS_V1_PATH: &str = "/oauth2/v1/certs";

/// Before a service account's e-mail: its keys as a JWKS.
pub(super) const ACCOUNT_JWKS_PATH: &str = "/service_accounts/v1/metadata/jwk/";

/// The same for the account behind Identity Platform, as verifiers of its tokens have it.
pub(super) const SECURE_TOKEN_JWKS_PATH: &str = "/service_accounts/v1/jwk/";

/// The account whose keys sign Identity Platform's ID tokens.
pub(super) const SECURE_TOKEN_ACCOUNT: &str = "securetoken@system.gserviceaccount.com";

/// Before a service account's e-mail: its keys as certificates, where key files point to.
pub(super) const ROBOT_X509_PATH: &str = "/robot/v1/metadata/x509/";
