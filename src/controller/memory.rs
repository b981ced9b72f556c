//! What the controller remembers of a binding between visits. Losing it costs a look at the Secret or one
//! request to the source too many.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{IdTokenBinding, IdTokenBindingStatus, condition::Stall},
    plan::{Attempts, Pause, Problem, Retry, refresh::retry_at},
};

/// One entry a binding, by UID.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<String, Entry>>);

/// What is remembered of one binding. What few have is in boxes: there are as many of these as bindings.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Failures in a row, and when to try again.
    pub attempts: Option<Box<Attempts>>,
    /// The source gave the same token again: when to ask next.
    pub ask_again: Option<Box<Pause>>,
    /// How often the Secret was restored lately, and when last.
    restores: Option<(u32, Timestamp)>,
    /// The last status that was written, until the watch has brought it.
    written: Option<Box<Written>>,
    /// Since when only somebody outside can heal it, and for which generation of the binding.
    failing: Option<(Timestamp, Option<i64>)>,
    /// When that was.
    pub status_written: Option<Timestamp>,
    /// Since when no grant allows what stands in the Secret, once that was looked at: its note in the status may not have been written.
    loss: Option<Loss>,
    /// The term of leadership that all of it is from: in between, another one may have acted.
    term: Option<i32>,
}

/// A status that was written.
#[derive(Clone, Debug)]
struct Written {
    status: IdTokenBindingStatus,
    /// `metadata.resourceVersion` of the binding with it.
    version: Option<String>,
    /// Hashes of those that it and its forerunners replaced: whoever still sees one of them has an old copy.
    replaced: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Loss {
    since: Option<Timestamp>,
}

impl Memory {
    /// What is remembered from `term`.
    pub(super) fn of(&self, uid: &str, term: Option<i32>) -> Entry {
        let known = self.lock().get(uid).filter(|entry| entry.term == term).cloned();
        known.unwrap_or_else(|| Entry { term, ..Entry::default() })
    }

    pub(super) fn keep(&self, uid: &str, entry: Entry) {
        self.lock().insert(uid.to_owned(), entry);
    }

    /// Forgets the status that was written to `binding`, if that is what has been seen of it now.
    pub(super) fn saw(&self, binding: &IdTokenBinding) {
        let uid = binding.metadata.uid.as_deref().unwrap_or_default();
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.saw_status(seen(binding));
        }
    }

    /// Forgets every binding whose UID is not among `alive`.
    pub(super) fn sweep(&self, alive: &HashSet<Arc<str>>) {
        self.lock().retain(|uid, _| alive.contains(uid.as_str()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        // An entry is replaced whole: a panic elsewhere can't leave half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The newest status known: `seen`, unless that is what we have replaced already.
    pub(super) fn status<'a>(&'a self, seen: &'a IdTokenBindingStatus) -> &'a IdTokenBindingStatus {
        self.newer(seen).map_or(seen, |written| &written.status)
    }

    /// The newest status known of `binding`, and the newest `metadata.resourceVersion`.
    pub(super) fn newest<'a>(
        &'a self,
        binding: &'a IdTokenBinding,
    ) -> (&'a IdTokenBindingStatus, Option<&'a str>) {
        let (status, version) = (seen(binding), binding.metadata.resource_version.as_deref());
        match self.newer(status) {
            Some(written) => (&written.status, written.version.as_deref().or(version)),
            None => (status, version),
        }
    }

    /// What was written over the status that is `seen`.
    fn newer(&self, seen: &IdTokenBindingStatus) -> Option<&Written> {
        self.written.as_deref().filter(|written| written.replaced.contains(&hash(seen)))
    }

    /// What was written and not seen yet.
    pub(super) fn written(&self) -> Option<&IdTokenBindingStatus> {
        self.written.as_deref().map(|written| &written.status)
    }

    /// Forgets what was written once it is `seen`: thousands of bindings rest.
    pub(super) fn saw_status(&mut self, seen: &IdTokenBindingStatus) {
        self.written.take_if(|written| written.status == *seen);
    }

    /// Notes that `status` was put in place of `previous`, which may be newer than what is `seen`.
    pub(super) fn wrote_status(
        &mut self,
        seen: &IdTokenBindingStatus,
        previous: &IdTokenBindingStatus,
        status: IdTokenBindingStatus,
        version: Option<String>,
        now: Timestamp,
    ) {
        let seen = hash(seen);
        let mut replaced = Vec::new();
        if let Some(last) = self.written.take().filter(|last| last.replaced.contains(&seen)) {
            let newest = hash(&last.status);
            replaced = last.replaced;
            replaced.push(newest);
        }
        for old in [seen, hash(previous)] {
            if !replaced.contains(&old) {
                replaced.push(old);
            }
        }
        let newest = hash(&status);
        replaced.retain(|status| *status != newest);
        let surplus = replaced.len().saturating_sub(OLD_COPIES);
        replaced.drain(..surplus);
        self.written = Some(Box::new(Written { status, version, replaced }));
        self.status_written = Some(now);
    }

    /// Since when no grant allows what stands in the Secret; as `status` says, until that was looked at.
    pub(super) fn not_granted_since(&self, status: &IdTokenBindingStatus) -> Option<Timestamp> {
        self.loss.map_or(status.not_granted_since, |loss| loss.since)
    }

    /// That was looked at.
    pub(super) fn note_loss(&mut self, since: Option<Timestamp>) {
        self.loss = Some(Loss { since });
    }

    pub(super) fn restored(&mut self, now: Timestamp) {
        let lately = self.restores.filter(|(_, at)| now.duration_since(*at) < RESTORES_FORGOTTEN);
        self.restores = Some((lately.map_or(1, |(count, _)| count.saturating_add(1)), now));
    }

    /// Notes `problem`; says since when it, or another of its kind, has lasted.
    pub(super) fn failing_since(
        &mut self,
        problem: Option<&Problem>,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let lasts = problem.is_some_and(|p| p.reason.stalls() == Some(Stall::AfterTenMinutes));
        let known = self.failing.filter(|(since, of)| *of == generation && *since <= now);
        self.failing = lasts.then(|| known.unwrap_or((now, generation)));
        self.failing.map(|(since, _)| since)
    }

    /// What [`Entry::failing_since`] said last.
    pub(super) fn failing(&self) -> Option<Timestamp> {
        self.failing.map(|(since, _)| since)
    }

    pub(super) fn has_restored(&self) -> bool {
        self.restores.is_some()
    }

    /// The first restore is immediate; each further one within 10 minutes waits longer.
    pub(super) fn restore_not_before(&self, uid: &str, now: Timestamp) -> Option<Timestamp> {
        // A restore in the future: the clock was set back.
        let (count, last) = self.restores.filter(|(_, last)| *last <= now)?;
        retry_at(last, Retry::Transient { retry_after: None }, count, uid)
    }
}

/// The status of a binding as it was seen; an empty one where it has none.
pub(super) fn seen(binding: &IdTokenBinding) -> &IdTokenBindingStatus {
    static NONE: LazyLock<IdTokenBindingStatus> = LazyLock::new(IdTokenBindingStatus::default);
    binding.status.as_ref().unwrap_or(&NONE)
}

/// Tells statuses apart.
fn hash(status: &IdTokenBindingStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Strings, numbers and lists of them: that can't fail.
    serde_json::to_vec(status).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// Old copies of a status that a watch may still bring.
const OLD_COPIES: usize = 4;
const RESTORES_FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);

#[cfg(test)]
mod tests;
