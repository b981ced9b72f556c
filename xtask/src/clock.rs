//! The wall clock, read in one place: whatever computes with time takes it as an argument.

use jiff::Timestamp;

/// The current time.
#[allow(clippy::disallowed_methods)] // this is the one place
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}
