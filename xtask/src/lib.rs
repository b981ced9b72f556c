//! Developer commands of idtoken-operator, as a library that tests, demo and benchmarks share.

pub mod bench;
pub mod chart;
pub mod clock;
pub mod cluster;
pub mod crd;
pub mod demo;
pub mod fuzz;
pub mod google;
pub mod image;
pub mod node;
pub mod packages;
pub mod port;
mod probe;
pub mod process;
pub mod progress;
pub mod simulate;
pub mod test;
pub mod tools;
mod workspace;
