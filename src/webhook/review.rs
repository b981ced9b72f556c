//! The two halves of an `AdmissionReview`, with of the pod only what is looked at.
//!
//! Not kube's types: those write the patch as an array of numbers, and read the object into fields that they know.
use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response as HttpResponse, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use serde::{Deserialize, Serialize, de, ser};

use crate::plan::inject::{Injection, PatchOp, Pod};

/// What the API server asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// Echoed in the answer.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// The object's namespace. (The object itself need not say on creation.)
    #[serde(borrow, default)]
    pub namespace: Cow<'a, str>,
    /// The object's name; empty where the API server is yet to make one up.
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    /// `CREATE` is the one that we act on.
    #[serde(borrow, default)]
    pub operation: Cow<'a, str>,
    /// What kind of object it is.
    #[serde(borrow, default)]
    pub kind: Kind<'a>,
    /// Such as `ephemeralcontainers`.
    #[serde(borrow, default)]
    pub sub_resource: Cow<'a, str>,
    /// What is looked at of the object.
    #[serde(borrow, default)]
    pub object: Pod<'a>,
}

/// A kind of object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Kind<'a> {
    /// Empty for the core group.
    #[serde(borrow, default)]
    pub group: Cow<'a, str>,
    /// Such as `v1`.
    #[serde(borrow, default)]
    pub version: Cow<'a, str>,
    /// Such as `Pod`.
    #[serde(borrow, default)]
    pub kind: Cow<'a, str>,
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

impl<'a> Request<'a> {
    /// Reads the body of a call.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReviewError> {
        // Looked through once, and not string by string.
        let body = std::str::from_utf8(body).map_err(<serde_json::Error as de::Error>::custom)?;
        let review: Review<'_> = serde_json::from_str(body)?;
        if review.api_version != API_VERSION || review.kind != KIND {
            return Err(ReviewError::Version(format!("{:?} {:?}", review.api_version, review.kind)));
        }
        review.request.filter(|request| !request.uid.is_empty()).ok_or(ReviewError::Empty)
    }

    /// Whether a pod is about to be created.
    #[must_use]
    pub fn creates_pod(&self) -> bool {
        let Kind { group, version, kind } = &self.kind;
        (&**group, &**version, &**kind) == ("", "v1", "Pod")
            && self.operation == "CREATE"
            && self.sub_resource.is_empty()
    }
}

/// What we say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip)]
    patch: Vec<PatchOp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

/// The answer that lets the object in, with the patch if there is one.
#[must_use]
pub fn allowed(uid: &str, injection: Injection) -> Answer {
    let Injection { patch, warnings } = injection;
    let patch_type = (!patch.is_empty()).then_some("JSONPatch");
    answer(Response { patch_type, patch, warnings, ..Response::new(uid, true) })
}

/// The answer that keeps the object out. kubectl prints `admission webhook "…" denied the request: MESSAGE`.
#[must_use]
pub fn denied(uid: &str, message: String) -> Answer {
    refusal(uid, Failure { status: FAILURE, code: 400, reason: "BadRequest", message })
}

fn refusal(uid: &str, status: Failure) -> Answer {
    answer(Response { status: Some(status), ..Response::new(uid, false) })
}

fn answer(response: Response) -> Answer {
    Answer { api_version: API_VERSION, kind: KIND, response }
}

impl Response {
    fn new(uid: &str, allowed: bool) -> Self {
        let (uid, patch, warnings) = (uid.to_owned(), Vec::new(), Vec::new());
        Self { uid, allowed, patch_type: None, patch, warnings, status: None }
    }
}

impl Answer {
    /// The body of an answer by HTTP.
    #[must_use]
    pub fn into_response(self) -> HttpResponse<Full<Bytes>> {
        let (status, text) = match self.text() {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into()),
        };
        let mut response = HttpResponse::new(Full::new(text.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// The patch is most of it: it is written last, as a field of Go's type `[]byte` is, with nothing in it to escape.
    fn text(&self) -> serde_json::Result<Vec<u8>> {
        if self.response.patch.is_empty() {
            return serde_json::to_vec(self);
        }
        let mut patch = Vec::with_capacity(TYPICAL);
        serde_json::to_writer(&mut patch, &self.response.patch)?;
        let encoded = patch.len().div_ceil(3) * 4;
        let mut text = Vec::with_capacity(AROUND + encoded);
        serde_json::to_writer(&mut text, self)?;
        text.truncate(text.len() - END.len());
        text.extend_from_slice(PATCH);
        let begin = text.len();
        text.resize(begin + encoded, 0);
        BASE64_STANDARD.encode_slice(&patch, &mut text[begin..]).map_err(ser::Error::custom)?;
        text.push(b'"');
        text.extend_from_slice(END);
        Ok(text)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
const FAILURE: &str = "Failure";

/// How an answer ends, and what stands before its patch.
const END: &[u8] = b"}}";
const PATCH: &[u8] = br#","patch":""#;
/// Bytes that hold the patch of a usual pod, so that the buffer need not grow step by step.
const TYPICAL: usize = 2048;
/// And what stands around it, if there are no warnings.
const AROUND: usize = 256;
