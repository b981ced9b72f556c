//! Values by key, made when they are first asked for.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The values. Who holds one may use it while others use theirs.
#[derive(Debug)]
pub(super) struct Table<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    /// The value of `key`, if there is one.
    pub(super) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.lock().get(key).cloned()
    }

    /// The value of `key`; what `make` makes where there is none.
    pub(super) fn of_or(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut all = self.lock();
        if let Some(value) = all.get(key) {
            return value.clone();
        }
        let value = Arc::new(make());
        all.insert(key.clone(), value.clone());
        value
    }

    /// The value of `key`; an empty one where there is none.
    pub(super) fn of(&self, key: &K) -> Arc<V>
    where
        V: Default,
    {
        self.of_or(key, V::default)
    }

    pub(super) fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Drops those that nobody holds and that are not to be kept.
    pub(super) fn retain(&self, keep: impl Fn(&V) -> bool) {
        self.lock().retain(|_, value| Arc::strong_count(value) > 1 || keep(value));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
