//! One value for all callers, fetched by one of them at a time; and such values by key.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use super::Error;

/// A value that everybody needs alike. Whoever comes while it is fetched waits for that one answer, also where the answer
/// is a failure: else a silent server would cost each caller one more time-out after all those before.
#[derive(Debug)]
pub(super) struct Shared<T> {
    /// Locked across the fetch, on purpose. Every fetch is bounded by its time-out.
    last: Mutex<Option<Answer<T>>>,
}

#[derive(Debug)]
struct Answer<T> {
    result: Result<T, Error>,
    at: Instant,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { last: Mutex::new(None) }
    }
}

impl<T: Clone> Shared<T> {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The value that is held where `is_fresh` (told its age) says so; else what `fetch` gives.
    pub(super) async fn get(
        &self,
        is_fresh: impl Fn(&T, Duration) -> bool,
        fetch: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(Answer { result, at }) = last.as_ref() {
            let serves = match result {
                Ok(value) => is_fresh(value, at.elapsed()),
                Err(_) => *at > asked,
            };
            if serves {
                return result.clone();
            }
        }
        let result = fetch.await;
        *last = Some(Answer { result: result.clone(), at: Instant::now() });
        result
    }

    /// Drops the value where it is still one that `is_refused`.
    pub(super) async fn forget(&self, is_refused: impl Fn(&T) -> bool) {
        let mut last = self.last.lock().await;
        last.take_if(|answer| answer.result.as_ref().is_ok_and(is_refused));
    }
}

/// What is kept for each of many principals. What nobody asked for in [`KEPT_UNUSED`] is dropped when somebody asks for anything,
/// at most every [`SWEEP_EVERY`]; and of too many the one that nobody asked for the longest. Where nobody asks for anything any
/// more, what is there stays.
pub(super) struct Keyed<K, V>(std::sync::Mutex<Entries<K, V>>);

struct Entries<K, V> {
    all: HashMap<K, Entry<V>>,
    swept: Instant,
}

struct Entry<V> {
    value: Arc<V>,
    used: Instant,
}

impl<K: Clone + Eq + Hash, V: Default> Keyed<K, V> {
    pub(super) fn new() -> Self {
        Self(std::sync::Mutex::new(Entries { all: HashMap::new(), swept: Instant::now() }))
    }

    /// What is kept for `key`; an empty one where there is none yet.
    pub(super) fn of(&self, key: &K) -> Arc<V> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        entries.sweep(now);
        if let Some(entry) = entries.all.get_mut(key) {
            entry.used = now;
            return entry.value.clone();
        }
        entries.make_room();
        let value = Arc::<V>::default();
        entries.all.insert(key.clone(), Entry { value: value.clone(), used: now });
        value
    }
}

impl<K: Clone + Eq + Hash, V> Entries<K, V> {
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.all.retain(|_, entry| now.duration_since(entry.used) < KEPT_UNUSED);
        }
    }

    fn make_room(&mut self) {
        if self.all.len() >= MAX_ENTRIES {
            let oldest = self.all.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            oldest.map(|key| self.all.remove(&key));
        }
    }
}

/// How many there are, and nothing of them.
impl<K, V> fmt::Debug for Keyed<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Keyed({} redacted)", entries.all.len())
    }
}

/// Longer than any token that is kept lives, and than any binding waits for its refresh.
const KEPT_UNUSED: Duration = Duration::from_secs(2 * 3600);
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// More than the bindings of a large fleet.
const MAX_ENTRIES: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at one key, and how many are kept then.
    fn look(keyed: &Keyed<u32, std::sync::Mutex<u32>>, key: u32) -> (Arc<std::sync::Mutex<u32>>, usize) {
        let value = keyed.of(&key);
        (value, keyed.0.lock().unwrap().all.len())
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_dropped_after_two_hours() {
        let keyed = Keyed::new();
        let (first, _) = look(&keyed, 1);
        look(&keyed, 2);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(3600)).await;
            assert!(Arc::ptr_eq(&first, &look(&keyed, 1).0), "it is asked for each hour");
        }
        assert_eq!(look(&keyed, 1).1, 1, "2 is gone, though nobody new has come");
        assert_eq!(look(&keyed, 3).1, 2);
        assert_eq!(format!("{keyed:?}"), "Keyed(2 redacted)");
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_longest_unused_goes() {
        let keyed = Keyed::new();
        for key in 0..100_000 {
            look(&keyed, key);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        for key in (0..100_000).filter(|key| *key != 777) {
            look(&keyed, key);
        }
        assert_eq!(look(&keyed, 100_000).1, 100_000);
        assert!(!keyed.0.lock().unwrap().all.contains_key(&777));
    }
}
