//! The metadata server of a VM or of a GKE pod, chosen by [`Mode`].

mod tree;

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::fault::{Endpoint, Fault};
use super::form::{Form, decode_segment};
use super::options::{EmailClaim, Mode};
use super::policy::{Identity, Permission};
use super::reply::{self, Handled, Reply};
use super::serve::Call;
use super::state::{Simulator, lock};
use super::token::{IdTokenRequest, seconds_until};
use tree::{
    ACCOUNTS_PATH, INSTANCE_ID, INSTANCE_NAME, Leaf, ZONE, below, json_tree, json_value, leaves, listing,
};

/// What a path asks for.
pub(super) fn endpoint(path: &str) -> Endpoint {
    let leaf = path.strip_prefix(ACCOUNTS_PATH).and_then(|rest| rest.split_once('/')).map(|(_, leaf)| leaf);
    match leaf {
        Some("identity") => Endpoint::MetadataIdentity,
        Some("token") => Endpoint::MetadataToken,
        Some("email") => Endpoint::MetadataEmail,
        _ => Endpoint::Metadata,
    }
}

pub(super) fn handle(sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
    if call.uri.path() == "/" {
        return Ok(text("computeMetadata/\n")); // the one path that libraries probe without the header
    }
    check(call)?;
    let path = decode_segment(call.uri.path());
    let leaves = leaves(sim);
    if let Some((_, leaf)) = leaves.iter().find(|(known, _)| *known == path) {
        return read_leaf(sim, leaf, &call.query(), fault);
    }
    let Some(directory) = path.strip_suffix('/') else {
        return redirect_to_directory(sim, call, &leaves, &path);
    };
    let below = below(&leaves, directory);
    if below.is_empty() {
        return Err(not_found(sim, &path));
    }
    if call.query().get("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(reply::body(StatusCode::OK, "application/json", json_tree(&below).to_string()));
    }
    Ok(text(listing(&below)))
}

/// Puts on every answer, refusals included, what the real servers put there.
pub(super) fn finish(sim: &Simulator, mut reply: Reply) -> Reply {
    let server = match sim.options.mode {
        Mode::Gce { .. } => "Metadata Server for VM",
        _ => "GKE Metadata Server",
    };
    let headers = reply.headers_mut();
    headers.insert("metadata-flavor", HeaderValue::from_static("Google"));
    headers.insert(header::SERVER, HeaderValue::from_static(server));
    headers.insert(header::X_XSS_PROTECTION, HeaderValue::from_static("0"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
    reply
}

/// The rules that keep forged requests out.
fn check(call: &Call) -> Result<(), Reply> {
    if call.headers.contains_key("x-forwarded-for") {
        return Err(html(StatusCode::FORBIDDEN, "Requests with the header X-Forwarded-For are refused.\n"));
    }
    match call.header("metadata-flavor") {
        None => {
            return Err(html(StatusCode::FORBIDDEN, "Missing Metadata-Flavor:Google header.\n"));
        }
        Some("Google") => {}
        Some(_) => return Err(html(StatusCode::NOT_FOUND, NOT_FOUND)),
    }
    match call.method {
        Method::GET => Ok(()),
        _ => Err(html(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")),
    }
}

/// The account behind `default`.
#[derive(Clone)]
struct Attached {
    /// What the server calls it.
    email: String,
    /// Who its tokens are.
    identity: Identity,
}

impl Attached {
    fn of(sim: &Simulator) -> Option<Self> {
        let options = &sim.options;
        match &options.mode {
            Mode::Gce { service_account: None } => None,
            Mode::Gce { service_account: Some(email) }
            | Mode::GkeAnnotated { service_account: email, .. } => {
                Some(Self { email: email.clone(), identity: Identity::ServiceAccount(email.clone()) })
            }
            Mode::GkeNotAnnotated { namespace, name } => {
                Some(Self { email: sim.gke_pool(), identity: sim.pod(namespace, name) })
            }
        }
    }
}

fn read_leaf(sim: &Simulator, leaf: &Leaf, query: &Form, fault: Option<&Fault>) -> Handled {
    if query.get("alt") == Some("json")
        && let Some(value) = json_value(leaf)
    {
        return Ok(reply::body(StatusCode::OK, "application/json", value.to_string()));
    }
    match leaf {
        Leaf::Text(value) => Ok(text(value.clone())),
        Leaf::Number(value) => Ok(text(value.to_string())),
        Leaf::Lines(lines) => Ok(text(lines.join("\n") + "\n")),
        Leaf::Token(account) => access_token(sim, account, query, fault),
        Leaf::Identity(account) => identity(sim, account, query, fault),
    }
}

fn access_token(sim: &Simulator, account: &Attached, query: &Form, fault: Option<&Fault>) -> Handled {
    impersonate(sim, Permission::GetAccessToken)?;
    let scopes: Vec<String> = match query.get("scopes").filter(|scopes| !scopes.is_empty()) {
        Some(scopes) => scopes.split(',').map(Into::into).collect(),
        None => sim.options.scopes.clone(),
    };
    let key = format!("token {}", scopes.join(","));
    let lifetime = sim.settings().access_token_lifetime;
    let mint = || sim.mint_access_token(account.identity.clone(), scopes, lifetime, fault);
    let (token, end) = cached(sim, key, fault, mint);
    let expires_in = seconds_until(end, sim.now());
    let answer = json!({ "access_token": token, "expires_in": expires_in, "token_type": "Bearer" });
    Ok(reply::body(StatusCode::OK, "application/json", answer.to_string()))
}

fn identity(sim: &Simulator, account: &Attached, query: &Form, fault: Option<&Fault>) -> Handled {
    let audience = query.get("audience").unwrap_or_default();
    if audience.is_empty() {
        return Err(html(StatusCode::BAD_REQUEST, "non-empty audience parameter required"));
    }
    if let Mode::GkeNotAnnotated { namespace, name } = &sim.options.mode {
        return Err(html(StatusCode::NOT_FOUND, not_annotated(namespace, name)));
    }
    impersonate(sim, Permission::GetOpenIdToken)?;
    let full = query.get("format").is_some_and(|format| format.eq_ignore_ascii_case("full"));
    let licenses = full && query.get("licenses").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let request = IdTokenRequest {
        endpoint: Endpoint::MetadataIdentity,
        audience,
        email: &account.email,
        include_email: full || sim.options.email_claim == EmailClaim::Always,
        authorized_party: None,
        google: full.then(|| compute_engine(sim, licenses)),
    };
    let key = format!("identity {full} {licenses} {audience}");
    let (token, _) = cached(sim, key, fault, || sim.mint_id_token(&request, fault));
    Ok(html(StatusCode::OK, token))
}

/// On GKE the server can be the annotated account only where IAM lets the pod be it.
fn impersonate(sim: &Simulator, permission: Permission) -> Result<(), Reply> {
    let Mode::GkeAnnotated { namespace, name, service_account } = &sim.options.mode else {
        return Ok(());
    };
    if !sim.account_exists(service_account) {
        let text =
            format!("IAM returned 404 Not Found: Not found; Gaia id not found for email {service_account}");
        return Err(html(StatusCode::NOT_FOUND, format!("Unable to generate access token; {text}\n")));
    }
    if !sim.permits(&sim.pod(namespace, name), permission, service_account) {
        let text = format!(
            "IAM returned 403 Forbidden: Permission '{}' denied on resource (or it may not exist).",
            permission.name()
        );
        return Err(html(StatusCode::FORBIDDEN, format!("Unable to generate access token; {text}\n")));
    }
    Ok(())
}

impl Simulator {
    /// The cluster's own workload identity pool.
    fn gke_pool(&self) -> String {
        format!("{}.svc.id.goog", self.options.project_id)
    }

    /// The principal of a pod's Kubernetes service account.
    fn pod(&self, namespace: &str, name: &str) -> Identity {
        Identity::Federated {
            project_number: self.options.project_number,
            pool: self.gke_pool(),
            subject: format!("ns/{namespace}/sa/{name}"),
        }
    }
}

/// The cached token while its end is far enough away, else a new one. A spoilt token never meets the cache.
fn cached(
    sim: &Simulator,
    key: String,
    fault: Option<&Fault>,
    mint: impl FnOnce() -> (String, jiff::Timestamp),
) -> (String, jiff::Timestamp) {
    let Some(margin) = sim.settings().metadata_cache_margin else {
        return mint();
    };
    if fault.is_some_and(Fault::spoils_token) {
        return mint();
    }
    let mut cache = lock(&sim.metadata_cache);
    let margin = i64::try_from(margin.as_secs()).unwrap_or(i64::MAX);
    match cache.get(&key) {
        Some((token, end)) if seconds_until(*end, sim.now()) > margin => (token.clone(), *end),
        _ => {
            let fresh = mint();
            cache.insert(key, fresh.clone());
            fresh
        }
    }
}

fn compute_engine(sim: &Simulator, licenses: bool) -> Value {
    let mut instance = json!({
        "instance_creation_timestamp": 1_760_000_000,
        "instance_id": INSTANCE_ID.to_string(),
        "instance_name": INSTANCE_NAME,
        "project_id": sim.options.project_id,
        "project_number": sim.options.project_number,
        "zone": ZONE,
    });
    if licenses {
        instance["license_id"] = json!(["5926592092274602096"]);
    }
    json!({ "compute_engine": instance })
}

fn redirect_to_directory(sim: &Simulator, call: &Call, leaves: &[(String, Leaf)], path: &str) -> Handled {
    if below(leaves, path).is_empty() {
        return Err(not_found(sim, path));
    }
    let query = call.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let location = format!("{}/{query}", call.uri.path());
    let moved = html(StatusCode::MOVED_PERMANENTLY, "Moved Permanently\n");
    Ok(reply::with_header(moved, header::LOCATION, &location))
}

fn not_found(sim: &Simulator, path: &str) -> Reply {
    let no_account = sim.options.mode == Mode::Gce { service_account: None };
    if no_account && path.starts_with(ACCOUNTS_PATH) {
        let error = json!({
            "error": "invalid_request",
            "error_description": "Service account not enabled on this instance",
        });
        return reply::body(StatusCode::NOT_FOUND, "application/json", error.to_string());
    }
    html(StatusCode::NOT_FOUND, NOT_FOUND)
}

fn not_annotated(namespace: &str, name: &str) -> String {
    format!(
        "Your Kubernetes service account ({namespace}/{name}) is not annotated with a target Google service account, \
         which is a requirement for retrieving Identity Tokens using Workload Identity. Please add the \
         iam.gke.io/gcp-service-account=[GSA_NAME]@[PROJECT_ID] annotation to your Kubernetes service account.\n"
    )
}

fn text(body: impl Into<bytes::Bytes>) -> Reply {
    reply::body(StatusCode::OK, "application/text", body)
}

fn html(status: StatusCode, body: impl Into<bytes::Bytes>) -> Reply {
    reply::body(status, "text/html", body)
}

const NOT_FOUND: &str = "<!DOCTYPE html>\n<html lang=en>\n<title>Error 404 (Not Found)!!1</title>\n";
