//! Tells the watches' echo of this process's own writes from changes by others.
//!
//! The writer of an object knows the result, so the event that shows it is no reason to reconcile again. The watch may be
//! faster than the answer to the write: until the answer is there, the first event with the written value is the echo.
//! client-go calls this expectations.

use std::{collections::HashMap, hash::Hash};

/// The writes under way: what is being written, by the object that it is written to.
#[derive(Debug)]
pub(crate) struct OwnWrites<K, V> {
    pending: HashMap<K, V>,
}

impl<K, V> Default for OwnWrites<K, V> {
    fn default() -> Self {
        Self { pending: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> OwnWrites<K, V> {
    /// A write of `value` begins; [`OwnWrites::finish`] follows.
    pub(crate) fn begin(&mut self, key: K, value: V) {
        self.pending.insert(key, value);
    }

    /// The write was answered, or failed.
    pub(crate) fn finish(&mut self, key: &K) {
        self.pending.remove(key);
    }

    /// Whether an event of the watch shows the pending write; `is_value` compares it with the value. Only the first such
    /// event is the echo: a later one is a change by another client back to the same value.
    pub(crate) fn is_own_write(&mut self, key: &K, is_value: impl FnOnce(&V) -> bool) -> bool {
        let own = self.pending.get(key).is_some_and(is_value);
        if own {
            self.pending.remove(key);
        }
        own
    }
}
