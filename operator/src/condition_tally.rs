//! How many objects of a kind have which conditions, for the metrics.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use parking_lot::Mutex;

use tidemark_crds::Reason;

use crate::{
    cache::NamespacedName,
    metrics::{ConditionGauges, ConditionLabels},
};

/// Counts each object of a kind once, by its conditions as they were reported last.
#[derive(Debug)]
pub(crate) struct ConditionTally {
    gauges: ConditionGauges,
    counted: Mutex<HashMap<NamespacedName, Vec<ConditionLabels>>>,
}

impl ConditionTally {
    pub(crate) fn new(gauges: ConditionGauges) -> Self {
        Self { gauges, counted: Mutex::default() }
    }

    /// Counts an object by these conditions, and no longer by those before.
    pub(crate) fn count(&self, key: &NamespacedName, conditions: &[Condition]) {
        let now: Vec<_> = conditions.iter().map(labels).collect();
        let mut counted = self.counted.lock();
        let before = counted.entry(key.clone()).or_default();
        self.recount(before, &now);
        *before = now;
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &NamespacedName) {
        let before = self.counted.lock().remove(key).unwrap_or_default();
        self.recount(&before, &[]);
    }

    fn recount(&self, before: &[ConditionLabels], now: &[ConditionLabels]) {
        for labels in before.iter().filter(|counted| !now.contains(counted)) {
            self.gauges.get_or_create(labels).dec();
        }
        for labels in now.iter().filter(|counted| !before.contains(counted)) {
            self.gauges.get_or_create(labels).inc();
        }
    }
}

fn labels(condition: &Condition) -> ConditionLabels {
    ConditionLabels {
        condition: condition.type_.clone(),
        status: condition.status.clone(),
        // What another program wrote may have any.
        reason: Reason::parse(&condition.reason).map_or("Other", Reason::as_str),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use tidemark_crds::{ConditionStatus, ConditionType, set_condition};

    use super::*;
    use crate::metrics::OperatorMetrics;

    #[test]
    fn a_wal_is_counted_once_by_what_its_condition_says_last() {
        let metrics = OperatorMetrics::new();
        let tally = ConditionTally::new(metrics.wals());
        let key = NamespacedName { namespace: "default".into(), name: "orders".into() };
        let mut conditions = Vec::new();
        for reason in [Reason::Starting, Reason::PodCrashing, Reason::PodCrashing] {
            let (kind, status) = (ConditionType::Indexing, ConditionStatus::False);
            set_condition(&mut conditions, kind, status, reason, "so; so; do", None, Timestamp::UNIX_EPOCH);
            tally.count(&key, &conditions);
        }
        conditions.push(Condition {
            type_: "Foreign".to_owned(),
            reason: "Whatever".to_owned(),
            ..conditions[0].clone()
        });
        tally.count(&key, &conditions);
        let encoded = metrics.encode().unwrap();
        for (condition, reason, count) in
            [("Indexing", "Starting", 0), ("Indexing", "PodCrashing", 1), ("Foreign", "Other", 1)]
        {
            let line = format!("{{condition=\"{condition}\",status=\"False\",reason=\"{reason}\"}} {count}\n");
            assert!(encoded.contains(&line), "{line} is not in {encoded}");
        }
        tally.forget(&key);
        assert!(metrics.encode().unwrap().contains("reason=\"PodCrashing\"} 0\n"));
    }
}
