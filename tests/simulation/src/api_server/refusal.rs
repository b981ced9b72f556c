//! What the API server says where it does not do what was asked.

use http::StatusCode;
use serde_json::{Value, json};

use super::store::{Name, Resource};

/// A `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of HTTP.
    pub code: u16,
    reason: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn exists(resource: Resource, name: &Name) -> Self {
        Self::of(409, "AlreadyExists", format!("{} \"{}\" already exists", resource.plural(), name.name))
    }

    pub(super) fn conflict(resource: Resource, name: &Name) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the latest version",
            resource.plural(),
            name.name
        );
        Self::of(409, "Conflict", message)
    }

    pub(super) fn unversioned(resource: Resource, name: &Name) -> Self {
        let message = format!(
            "{} \"{}\" is invalid: metadata.resourceVersion: must be specified for an update",
            resource.plural(),
            name.name
        );
        Self::of(422, "Invalid", message)
    }

    pub(super) fn missing(resource: Resource, name: &Name) -> Self {
        Self::of(404, "NotFound", format!("{} \"{}\" not found", resource.plural(), name.name))
    }

    /// What a watch is told that wants to go on from where nobody remembers.
    pub(super) fn expired() -> Self {
        Self::of(410, "Expired", "too old resource version".to_owned())
    }

    pub(super) fn unavailable() -> Self {
        Self::of(503, "ServiceUnavailable", "apiserver is shutting down".to_owned())
    }

    /// Of something that this model does not know.
    pub(super) fn unknown(what: &str) -> Self {
        Self::of(501, "NotImplemented", format!("the model of the API server does not know {what}"))
    }

    fn of(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message }
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn body(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "code": self.code, "reason": self.reason, "message": self.message,
        })
    }
}
