//! How many WALs may be upgraded at a time: a semaphore that knows who holds a slot and who waits for one.

use std::collections::{BTreeSet, HashSet};

use parking_lot::Mutex;

use crate::cache::NamespacedName;

/// The slots of the WALs that are upgraded.
#[derive(Debug)]
pub(crate) struct UpgradeSlots {
    limit: usize,
    inner: Mutex<SlotTable>,
}

#[derive(Debug)]
struct SlotTable {
    /// Parts of the cluster whose WALs under way have not been counted yet.
    uncounted: usize,
    under_way: HashSet<NamespacedName>,
    waiting: BTreeSet<NamespacedName>,
}

impl UpgradeSlots {
    /// At most `limit` slots, of which none is free before [`UpgradeSlots::count_under_way`] was called `parts` times.
    pub(crate) fn new(limit: u16, parts: usize) -> Self {
        let table = SlotTable { uncounted: parts, under_way: HashSet::new(), waiting: BTreeSet::new() };
        Self { limit: usize::from(limit), inner: Mutex::new(table) }
    }

    /// Gives slots to the WALs of one part of the cluster that are under way already.
    pub(crate) fn count_under_way(&self, under_way: impl IntoIterator<Item = NamespacedName>) {
        let mut inner = self.inner.lock();
        inner.uncounted = inner.uncounted.saturating_sub(1);
        inner.under_way.extend(under_way);
    }

    /// Acquires a slot, or waits in line for one.
    pub(crate) fn acquire(&self, key: &NamespacedName) -> bool {
        let mut inner = self.inner.lock();
        if inner.under_way.contains(key) {
            return true;
        }
        if inner.uncounted == 0 && inner.under_way.len() < self.limit {
            inner.waiting.remove(key);
            inner.under_way.insert(key.clone());
            return true;
        }
        inner.waiting.insert(key.clone());
        false
    }

    /// Releases a slot, or a place in line. Answers who may try to acquire one now.
    pub(crate) fn release(&self, key: &NamespacedName) -> Vec<NamespacedName> {
        let mut inner = self.inner.lock();
        inner.waiting.remove(key);
        if !inner.under_way.remove(key) {
            return Vec::new();
        }
        let free = self.limit.saturating_sub(inner.under_way.len());
        inner.waiting.iter().take(free).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_slot_before_all_parts_are_counted() {
        let slots = UpgradeSlots::new(1, 2);
        let key = NamespacedName::new("data", "orders");
        slots.count_under_way([]);
        assert!(!slots.acquire(&key));
        slots.count_under_way([]);
        assert!(slots.acquire(&key));
    }

    #[test]
    fn a_slot_that_is_released_goes_to_the_next_in_line() {
        let slots = UpgradeSlots::new(1, 0);
        let [a, b, c] = ["a", "b", "c"].map(|name| NamespacedName::new("data", name));
        assert!(slots.acquire(&a) && !slots.acquire(&c) && !slots.acquire(&b));
        assert_eq!(slots.release(&a), std::slice::from_ref(&b));
        assert!(slots.release(&a).is_empty());
        assert!(slots.acquire(&b));
    }
}
