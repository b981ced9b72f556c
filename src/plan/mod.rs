//! Decisions as pure functions: nothing in here waits, reads, writes or asks for the time.
pub mod inject;
