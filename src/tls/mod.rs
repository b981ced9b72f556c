//! Serving TLS: where the certificate comes from ([`authority`] or [`files`]), how it is swapped ([`resolver`]) and the
//! loop that serves connections ([`server`]).
pub mod authority;
pub mod files;
pub mod resolver;
pub mod server;
