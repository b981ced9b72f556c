//! The API of group `idtoken.dev`: custom resources, conditions and reasons, annotations and labels.
//!
//! A leaf: nothing here knows of clients, clocks or Google.

pub mod annotations;
pub mod binding;
pub mod condition;
pub mod grant;

pub use binding::{IdTokenBinding, IdTokenBindingSpec, IdTokenBindingStatus};
pub use condition::{ConditionType, Reason};
pub use grant::{IdTokenGrant, IdTokenGrantSpec, IdTokenGrantStatus};

/// Name under which every write of the controller is recorded in `managedFields`.
pub const FIELD_MANAGER: &str = "idtoken-operator";

/// Type of the Secrets that hold ID tokens. The Secret watch and the chart's policies select by it.
pub const SECRET_TYPE: &str = "idtoken.dev/id-token";
