//! Every source × first mint, refresh, each documented error, time-out and garbage: the reason that the binding shows, when it
//! is tried again, its conditions, and what Google was asked. On loopback, with the simulator.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

#[path = "sources/bench.rs"]
mod bench;
#[path = "sources/identity_platform.rs"]
mod identity_platform;
#[path = "sources/impersonation.rs"]
mod impersonation;
#[path = "sources/kubernetes_service_account.rs"]
mod kubernetes_service_account;
#[path = "sources/metadata_server.rs"]
mod metadata_server;
#[path = "sources/operator_files.rs"]
mod operator_files;
#[path = "sources/service_account_key.rs"]
mod service_account_key;
#[path = "sources/signed_jwt.rs"]
mod signed_jwt;
#[path = "sources/time_out.rs"]
mod time_out;
#[path = "sources/user_credentials.rs"]
mod user_credentials;
