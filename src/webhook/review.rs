//! The two halves of an `AdmissionReview`, with pods as raw JSON.
//!
//! Not kube's types: those write the patch as an array of numbers, and read the object into fields that they know.
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plan::inject::{Injection, PatchOp};

/// What the API server asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Echoed in the answer.
    pub uid: String,
    /// The object's namespace. (The object itself need not say on creation.)
    #[serde(default)]
    pub namespace: String,
    /// The object's name; empty where the API server is yet to make one up.
    #[serde(default)]
    pub name: String,
    /// `CREATE` is the one that we act on.
    #[serde(default)]
    pub operation: String,
    /// What kind of object it is.
    #[serde(default)]
    pub kind: Kind,
    /// Such as `ephemeralcontainers`.
    #[serde(default)]
    pub sub_resource: String,
    /// The object.
    #[serde(default)]
    pub object: Value,
}

/// A kind of object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Kind {
    /// Empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Such as `v1`.
    #[serde(default)]
    pub version: String,
    /// Such as `Pod`.
    #[serde(default)]
    pub kind: String,
}

/// Why a body is not a question that we can answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or not of the right shape.
    #[error("not an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// Another API version or kind.
    #[error("{0} is not admission.k8s.io/v1 AdmissionReview")]
    Version(String),
    /// No request in it, or one without a uid.
    #[error("the AdmissionReview has no request with a uid")]
    Empty,
}

impl Request {
    /// Reads the body of a call.
    pub fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        let review: Review = serde_json::from_slice(body)?;
        if review.api_version != API_VERSION || review.kind != KIND {
            return Err(ReviewError::Version(format!("{:?} {:?}", review.api_version, review.kind)));
        }
        review.request.filter(|request| !request.uid.is_empty()).ok_or(ReviewError::Empty)
    }

    /// Whether a pod is about to be created.
    #[must_use]
    pub fn creates_pod(&self) -> bool {
        let Kind { group, version, kind } = &self.kind;
        (group.as_str(), version.as_str(), kind.as_str()) == ("", "v1", "Pod")
            && self.operation == "CREATE"
            && self.sub_resource.is_empty()
    }
}

/// The answer that lets the object in, with the patch if there is one.
#[must_use]
pub fn allowed(uid: &str, injection: &Injection) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    if !injection.patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(encode(&injection.patch));
    }
    if !injection.warnings.is_empty() {
        response["warnings"] = json!(injection.warnings);
    }
    answer(&response)
}

/// The answer that keeps the object out. kubectl prints `admission webhook "…" denied the request: MESSAGE`.
#[must_use]
pub fn denied(uid: &str, message: &str) -> Value {
    refusal(uid, &json!({"status": "Failure", "code": 400, "reason": "BadRequest", "message": message}))
}

/// The pod may be sent again later, as controllers do by themselves.
#[must_use]
pub fn unavailable(uid: &str, message: &str) -> Value {
    refusal(
        uid,
        &json!({"status": "Failure", "code": 503, "reason": "ServiceUnavailable", "message": message}),
    )
}

fn refusal(uid: &str, status: &Value) -> Value {
    answer(&json!({"uid": uid, "allowed": false, "status": status}))
}

fn answer(response: &Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
}

fn encode(patch: &[PatchOp]) -> String {
    BASE64_STANDARD.encode(json!(patch).to_string())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
