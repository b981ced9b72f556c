//! Decisions as pure functions: no tokio, no client, no environment, no clock.
pub mod inject;
