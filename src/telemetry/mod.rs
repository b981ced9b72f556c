//! Logs, metrics, health and shutdown.

pub mod health;
pub mod logs;
pub mod metrics;
pub mod serve;
pub mod shutdown;
