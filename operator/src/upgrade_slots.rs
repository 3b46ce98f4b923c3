//! How many WALs may be upgraded at a time: a semaphore that knows who holds a slot and who waits for one.
//!
//! tokio's semaphore knows neither. Both are needed: a WAL that was under way before a restart has its slot already, and one that is
//! deleted or refused while it waits must leave the line.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cache::NamespacedName;

/// How long WALs wait for slots until those of every part of the cluster are counted. A part that cannot be listed must not keep
/// the others from being upgraded.
const COUNTING_TIMEOUT: Duration = Duration::from_mins(1);

/// The slots of the WALs that are upgraded.
#[derive(Debug)]
pub(crate) struct UpgradeSlots {
    limit: usize,
    created: Instant,
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
    /// At most `limit` slots, of which none is free before [`UpgradeSlots::count_under_way`] was called `parts` times, or a minute
    /// has passed.
    pub(crate) fn new(limit: u16, parts: usize) -> Self {
        let table = SlotTable { uncounted: parts, under_way: HashSet::new(), waiting: BTreeSet::new() };
        Self { limit: usize::from(limit), created: Instant::now(), inner: Mutex::new(table) }
    }

    /// Gives slots to the WALs of one part of the cluster that are under way already.
    pub(crate) fn count_under_way(&self, under_way: impl IntoIterator<Item = NamespacedName>) {
        let mut inner = self.inner.lock();
        inner.uncounted = inner.uncounted.saturating_sub(1);
        inner.under_way.extend(under_way);
    }

    /// Gives a slot to a WAL that is under way, be one free or not.
    pub(crate) fn resume(&self, key: &NamespacedName) {
        let mut inner = self.inner.lock();
        inner.waiting.remove(key);
        inner.under_way.insert(key.clone());
    }

    /// Acquires a slot, or waits in line for one.
    pub(crate) fn acquire(&self, key: &NamespacedName) -> bool {
        let mut inner = self.inner.lock();
        if inner.under_way.contains(key) {
            return true;
        }
        if self.is_counted(&inner) && inner.under_way.len() < self.limit {
            inner.waiting.remove(key);
            inner.under_way.insert(key.clone());
            return true;
        }
        inner.waiting.insert(key.clone());
        false
    }

    /// Whether a WAL is in line for a slot, and is notified of a free one.
    pub(crate) fn is_waiting(&self, key: &NamespacedName) -> bool {
        self.inner.lock().waiting.contains(key)
    }

    /// Whether a WAL has a slot.
    pub(crate) fn is_under_way(&self, key: &NamespacedName) -> bool {
        self.inner.lock().under_way.contains(key)
    }

    /// Whether slots are not given yet: who waits for one must try again by itself.
    pub(crate) fn is_counting(&self) -> bool {
        !self.is_counted(&self.inner.lock())
    }

    fn is_counted(&self, table: &SlotTable) -> bool {
        table.uncounted == 0 || self.created.elapsed() >= COUNTING_TIMEOUT
    }

    /// Releases a slot, or a place in line. Answers who may try to acquire one now.
    pub(crate) fn release(&self, key: &NamespacedName) -> Vec<NamespacedName> {
        let mut inner = self.inner.lock();
        let waited = inner.waiting.remove(key);
        if !inner.under_way.remove(key) && !waited {
            return Vec::new();
        }
        // The WAL that leaves the line may be the one that was notified of a free slot.
        let free = self.limit.saturating_sub(inner.under_way.len());
        inner.waiting.iter().take(free).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wal_gets_a_slot_before_all_parts_are_counted() {
        let slots = UpgradeSlots::new(1, 2);
        let key = NamespacedName::new("data", "orders");
        slots.count_under_way([]);
        assert!(!slots.acquire(&key));
        slots.count_under_way([]);
        assert!(slots.acquire(&key));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_cannot_be_counted_stops_the_others_for_a_minute_only() {
        let slots = UpgradeSlots::new(1, 2);
        let key = NamespacedName::new("data", "orders");
        slots.count_under_way([]);
        assert!(!slots.acquire(&key) && slots.is_counting());
        tokio::time::advance(COUNTING_TIMEOUT).await;
        assert!(slots.acquire(&key) && !slots.is_counting());
    }

    #[test]
    fn who_leaves_the_line_passes_a_free_slot_on() {
        let slots = UpgradeSlots::new(1, 0);
        let [a, b, c] = ["a", "b", "c"].map(|name| NamespacedName::new("data", name));
        assert!(slots.acquire(&a) && !slots.acquire(&b) && !slots.acquire(&c));
        assert_eq!(slots.release(&a), std::slice::from_ref(&b));
        assert_eq!(slots.release(&b), std::slice::from_ref(&c));
        assert!(slots.release(&b).is_empty());
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

    #[test]
    fn one_that_is_under_way_again_counts_even_above_the_limit() {
        let slots = UpgradeSlots::new(1, 0);
        let [a, b] = ["a", "b"].map(|name| NamespacedName::new("data", name));
        assert!(slots.acquire(&a));
        slots.resume(&b);
        assert!(slots.release(&a).is_empty() && !slots.acquire(&a), "b is under way");
        assert_eq!(slots.release(&b), [a]);
    }
}
