//! The WALs whose upgrade makes no progress, for the metric.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::{cache::NamespacedName, metrics::OperatorMetrics};

/// Counts each WAL once.
#[derive(Debug)]
pub(crate) struct StalledUpgrades {
    metrics: OperatorMetrics,
    stalled: Mutex<HashSet<NamespacedName>>,
}

impl StalledUpgrades {
    pub(crate) fn new(metrics: OperatorMetrics) -> Self {
        Self { metrics, stalled: Mutex::default() }
    }

    /// Takes note of whether the upgrade of a WAL makes no progress. One that is gone is not stalled.
    pub(crate) fn note(&self, key: &NamespacedName, stalled: bool) {
        let mut all = self.stalled.lock();
        let before = if stalled { !all.insert(key.clone()) } else { all.remove(key) };
        self.metrics.stalled(before, stalled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_is_counted_once_and_no_longer_when_it_gets_on() {
        let metrics = OperatorMetrics::new();
        let upgrades = StalledUpgrades::new(metrics.clone());
        let keys = ["a", "b"].map(|name| NamespacedName::new("data", name));
        let is_counted = |count: u32| metrics.encode().unwrap().contains(&format!("upgrades_stalled {count}\n"));
        for (key, stalled, count) in
            [(0, false, 0), (0, true, 1), (0, true, 1), (1, true, 2), (0, false, 1), (0, false, 1), (1, false, 0)]
        {
            upgrades.note(&keys[key], stalled);
            assert!(is_counted(count), "{count} is not in {}", metrics.encode().unwrap());
        }
    }
}
