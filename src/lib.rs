//! idtoken-operator: keeps Secrets filled with fresh, verified, audience-scoped Google ID tokens, and mounts them into
//! pods.
//!
//! Imports point down only:
//!
//! ```text
//! cli  →  controller | webhook  →  tls · token · verify · telemetry · cache  →  plan (pure)  →  api
//! ```

pub mod api;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod plan;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod verify;
pub mod webhook;
