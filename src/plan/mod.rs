//! Decisions, pure: no runtime, no client, no environment, no clock. Time is an argument.
//!
//! ```text
//! binding ──validate──▶ Wanted ─┐
//! grants, namespace ──grant─────┼──decide──▶ Decision ──(the controller acts)──▶ Outcome ──status──▶ conditions
//! Secret's metadata ──secret────┘
//! ```

pub mod check;
pub mod credential;
pub mod decide;
pub mod grant;
pub mod inject;
pub mod lease;
pub mod manifest;
pub mod names;
pub mod pace;
pub mod principal;
pub mod refresh;
pub mod secret;
pub mod source;
pub mod status;
pub mod turns;
pub mod uninjected;
pub mod validate;

use jiff::Timestamp;

use crate::api::Reason;

/// Why there is no (new) token, in a form fit for status, events and metrics: it never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The documented reason.
    pub reason: Reason,
    /// What was attempted, what was seen, and the mend.
    pub message: String,
    /// When trying again makes sense.
    pub retry: Retry,
}

/// When trying again makes sense after a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Soon, with exponential back-off; not before the given number of seconds where the source said so
    /// (`Retry-After`).
    Transient {
        /// Seconds that the source asked for.
        retry_after: Option<u64>,
    },
    /// Slowly: IAM and accounts change without an event.
    Slowly,
    /// Only when one of the objects changes: their watch wakes the binding.
    OnChange,
    /// Never with the same credential and spec: Google refused the credential itself, and would lock the account.
    OnNewCredential,
}

impl Problem {
    /// A problem that passes by itself.
    pub fn transient(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: Retry::Transient { retry_after: None } }
    }

    /// A problem that somebody must mend outside Kubernetes.
    pub fn slow(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: Retry::Slowly }
    }

    /// A credential that was refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { reason: Reason::CredentialsRefused, message: message.into(), retry: Retry::OnNewCredential }
    }

    /// A problem that only a change of a watched object mends.
    pub fn on_change(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: Retry::OnChange }
    }
}

/// Not to be done again before a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// What was done: something else may be done at once.
    pub key: String,
    /// When it was done. A clock that shows an earlier time now was set back, and the pause is void.
    pub noted_at: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Pause {
    /// Of something that needs no key.
    #[must_use]
    pub fn until(until: Timestamp, now: Timestamp) -> Self {
        Self { key: String::new(), noted_at: now, until }
    }

    /// Whether it still holds back what has `key`.
    #[must_use]
    pub fn holds(&self, key: &str, now: Timestamp) -> bool {
        self.key == key && self.noted_at <= now && now < self.until
    }
}

/// What was tried for a binding and failed; kept in memory between visits, and lost without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// Failures in a row.
    pub failures: u32,
    /// When to try again.
    pub pause: Pause,
    /// What came of the last try.
    pub problem: Problem,
}

impl Attempts {
    /// A try with this `key` that is never made again, whatever becomes of the clock.
    #[must_use]
    pub fn for_good(key: String, problem: Problem) -> Self {
        let pause = Pause { key, noted_at: Timestamp::UNIX_EPOCH, until: Timestamp::MAX };
        Self { failures: 1, pause, problem }
    }
}
