//! The one place that reads the wall clock. Everything else takes the time as an argument.

/// The current time. Decisions never call this: the edges do, and pass the result on.
#[must_use]
#[allow(clippy::disallowed_methods)] // the one permitted reader
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
