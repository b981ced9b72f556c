//! What the controller remembers of a binding between visits. Losing it costs a look at the Secret, never a token.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::IdTokenBindingStatus,
    plan::{Attempts, Retry, refresh::retry_at},
};

/// One entry a binding, by UID.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<String, Entry>>);

/// What is remembered of one binding.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Failures in a row, and when to try again.
    pub attempts: Option<Attempts>,
    /// The source gave the same token again: when to ask next.
    pub ask_again: Option<Timestamp>,
    /// How often the Secret was restored lately, and when last.
    restores: Option<(u32, Timestamp)>,
    /// The last status write: what was there and what was written. Whoever still sees the former has an old copy.
    status: Option<(IdTokenBindingStatus, IdTokenBindingStatus)>,
    /// When that was.
    pub status_written: Option<Timestamp>,
}

impl Memory {
    pub(super) fn of(&self, uid: &str) -> Entry {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    pub(super) fn keep(&self, uid: &str, entry: Entry) {
        self.lock().insert(uid.to_owned(), entry);
    }

    /// Forgets every binding that is not in `alive`.
    pub(super) fn prune(&self, alive: &HashSet<String>) {
        self.lock().retain(|uid, _| alive.contains(uid));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        // An entry is replaced whole: a panic elsewhere can't leave half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The newest status known: `seen`, unless that is what we have replaced already.
    pub(super) fn status<'a>(&'a self, seen: &'a IdTokenBindingStatus) -> &'a IdTokenBindingStatus {
        match &self.status {
            Some((before, after)) if before == seen => after,
            _ => seen,
        }
    }

    pub(super) fn wrote_status(
        &mut self,
        seen: IdTokenBindingStatus,
        after: IdTokenBindingStatus,
        now: Timestamp,
    ) {
        self.status = Some((seen, after));
        self.status_written = Some(now);
    }

    pub(super) fn restored(&mut self, now: Timestamp) {
        let lately = self.restores.filter(|(_, at)| now.duration_since(*at) < RESTORES_FORGOTTEN);
        self.restores = Some((lately.map_or(1, |(count, _)| count.saturating_add(1)), now));
    }

    pub(super) fn has_restored(&self) -> bool {
        self.restores.is_some()
    }

    /// The first restore is immediate; each further one within 10 minutes waits longer.
    pub(super) fn restore_not_before(&self, uid: &str) -> Option<Timestamp> {
        let (count, last) = self.restores?;
        retry_at(last, Retry::Transient { retry_after: None }, count, uid)
    }
}

const RESTORES_FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);

#[cfg(test)]
mod tests;
