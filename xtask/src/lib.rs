//! xtask

pub mod google;
