//! idtoken-operator.
pub mod api;
pub mod clock;
pub mod plan;
pub mod token;
pub mod verify;
pub mod controller;
pub mod telemetry;
