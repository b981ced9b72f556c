//! What each API says when a fault makes it refuse: the same status in the words of the API that was asked.

use http::StatusCode;
use serde_json::json;

use super::fault::Endpoint;
use super::reply::{self, Reply};
use super::serve::Call;
use super::state::Simulator;
use super::{iam, identity_platform};

/// The refusal in the words of the API that was asked.
pub(super) fn refuse(sim: &Simulator, call: &Call, status: StatusCode) -> Reply {
    match call.endpoint {
        Endpoint::MetadataIdentity
        | Endpoint::MetadataToken
        | Endpoint::MetadataEmail
        | Endpoint::Metadata => refuse_metadata(status),
        Endpoint::Sts | Endpoint::OauthToken => refuse_oauth(status),
        Endpoint::SignInWithPassword | Endpoint::SecureToken => refuse_identity(call.endpoint, status),
        _ => refuse_rpc(sim, call, status),
    }
}

fn refuse_metadata(status: StatusCode) -> Reply {
    let json = |code: &str, text: &str| {
        let value = json!({ "error": code, "error_description": text });
        reply::body(status, "application/json", value.to_string())
    };
    match status.as_u16() {
        429 => json(
            "quota_exceeded",
            "The request was throttled due to rate limit. Please retry after a few seconds.",
        ),
        404 => json("invalid_request", "Service account not enabled on this instance"),
        403 => {
            reply::body(status, "text/html", "Unable to generate access token; IAM returned 403 Forbidden")
        }
        500 => reply::body(status, "text/html", "GKE Metadata Server: Internal Server Error"),
        _ => reply::body(status, "text/html", "Service Unavailable"),
    }
}

fn refuse_rpc(sim: &Simulator, call: &Call, status: StatusCode) -> Reply {
    match (status.as_u16(), iam::Target::of(call.uri.path())) {
        (403, Some(target)) => iam::permission_denied(target.permission()),
        (403, None) => reply::rpc_error(status, "The caller does not have permission", &[]),
        (404, Some(target)) => iam::no_such_account(&target.account),
        (404, None) => reply::rpc_error(status, "Requested entity was not found.", &[]),
        (429, _) => {
            let number = sim.options.project_number;
            reply::rpc_error(status, &format!("{QUOTA_TEXT} for consumer 'project_number:{number}'."), &[])
        }
        (500, _) => reply::rpc_error(status, "Internal error encountered.", &[]),
        _ => reply::rpc_error(status, "The service is currently unavailable.", &[]),
    }
}

fn refuse_identity(endpoint: Endpoint, status: StatusCode) -> Reply {
    match status.as_u16() {
        403 => identity_platform::blocked(endpoint),
        404 => reply::rpc_error(status, "Requested entity was not found.", &[]),
        429 => reply::rpc_error(status, "Quota exceeded.", &[]),
        500 => reply::rpc_error(status, "Internal error encountered.", &[]),
        _ => reply::rpc_error(status, "The service is currently unavailable.", &[]),
    }
}

fn refuse_oauth(status: StatusCode) -> Reply {
    let (code, text) = match status.as_u16() {
        429 => (
            "quota_exceeded",
            "The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds.",
        ),
        403 => ("access_denied", "Account restricted"),
        404 => ("invalid_request", "Not Found"),
        500 => ("internal_failure", "Internal error encountered."),
        _ => ("temporarily_unavailable", "The service is currently unavailable."),
    };
    reply::oauth_error(status, code, text)
}

const QUOTA_TEXT: &str = "Quota exceeded for quota metric 'Generate credentials requests' and limit 'Generate credentials requests per minute' of service 'iamcredentials.googleapis.com'";
