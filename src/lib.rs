//! idtoken-operator.
pub mod plan;
pub mod tls;
pub mod webhook;
