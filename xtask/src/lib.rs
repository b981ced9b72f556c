//! Developer commands of idtoken-operator, as a library that tests, demo and benchmarks share.

#![allow(clippy::disallowed_methods)] // all of it is edge: it runs programs and watches the real clock

pub mod cluster;
pub mod demo;
pub mod google;
pub mod process;
pub mod progress;
pub mod tools;
