//! How many WALs have which conditions, for the metrics.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use parking_lot::Mutex;

use crate::{cache::NamespacedName, controllers::wal::upgrade::is_stalled, metrics::OperatorMetrics};

/// Counts each WAL once, by its conditions as they were reported last.
#[derive(Debug)]
pub(crate) struct ConditionTally {
    metrics: OperatorMetrics,
    counted: Mutex<HashMap<NamespacedName, CountedConditions>>,
}

#[derive(Debug, Default)]
struct CountedConditions {
    /// Types and statuses.
    conditions: Vec<(String, String)>,
    /// Whether it is among the upgrades that make no progress.
    stalled: bool,
}

impl ConditionTally {
    pub(crate) fn new(metrics: OperatorMetrics) -> Self {
        Self { metrics, counted: Mutex::default() }
    }

    /// Counts a WAL by these conditions, and no longer by those before.
    pub(crate) fn count(&self, key: &NamespacedName, conditions: &[Condition]) {
        let now: Vec<_> =
            conditions.iter().map(|condition| (condition.type_.clone(), condition.status.clone())).collect();
        let mut counted = self.counted.lock();
        let entry = counted.entry(key.clone()).or_default();
        self.recount(&entry.conditions, &now);
        entry.conditions = now;
        let stalled = is_stalled(conditions);
        self.metrics.stalled(entry.stalled, stalled);
        entry.stalled = stalled;
    }

    /// Forgets a WAL that is gone.
    pub(crate) fn forget(&self, key: &NamespacedName) {
        let entry = self.counted.lock().remove(key);
        if let Some(entry) = entry {
            self.recount(&entry.conditions, &[]);
            self.metrics.stalled(entry.stalled, false);
        }
    }

    fn recount(&self, before: &[(String, String)], now: &[(String, String)]) {
        for (kind, status) in before.iter().filter(|counted| !now.contains(counted)) {
            self.metrics.condition_moved(kind, Some(status), None);
        }
        for (kind, status) in now.iter().filter(|counted| !before.contains(counted)) {
            self.metrics.condition_moved(kind, None, Some(status));
        }
    }
}
