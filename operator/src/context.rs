//! What the reconciliations share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, Resource as _};
use tidemark_crds::{Wal, WalStatus};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    backoff::Backoff,
    cache::{Cache, WalKey, is_older},
    controllers::wal::{
        build::Platform,
        observe::Observations,
        upgrade::{Turns, is_stalled},
    },
    events::Events,
    metrics::Metrics,
};

/// What does not change while the operator runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) platform: Platform,
    /// Revision of the pods that this operator builds.
    pub(crate) release: String,
    /// Name of the cluster in ownership records.
    pub(crate) cluster_id: String,
    /// Revision that may roll out to every WAL, or nothing.
    pub(crate) upgrade_approved: String,
    pub(crate) poll_interval: Duration,
    pub(crate) pod_port: u16,
    pub(crate) purge_timeout: Duration,
    pub(crate) concurrency: u16,
}

/// What all reconciliations of a leader share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    pub(crate) backoff: Backoff<WalKey>,
    pub(crate) turns: Turns,
    pub(crate) ledger: Ledger,
    /// As many as may be under way at once, over all namespaces.
    pub(crate) permits: Semaphore,
}

/// What the reconciliations in one namespace, or in the whole cluster, share.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cache: Cache,
    pub(crate) observations: Observations,
    /// Takes WALs that are to be looked at.
    pub(crate) changed: mpsc::Sender<WalKey>,
}

/// The statuses that were written last. The watch that shows them may be late, and an Event must not be written twice.
#[derive(Debug)]
pub(crate) struct Ledger {
    metrics: Metrics,
    entries: Mutex<HashMap<WalKey, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    uid: String,
    resource_version: String,
    status: WalStatus,
    written: Option<Timestamp>,
    /// The status that is being written, until a watch or the answer shows it.
    writing: Option<WalStatus>,
    /// Types and statuses as the metrics count them.
    counted: Vec<(String, String)>,
    /// Whether the metrics count it among the upgrades that do not get on.
    stalled: bool,
}

impl Ledger {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, entries: Mutex::default() }
    }

    /// The newest known status of `wal`.
    pub(crate) fn status(&self, key: &WalKey, wal: &Wal) -> WalStatus {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = wal.meta();
        let shown = meta.resource_version.as_deref().unwrap_or_default();
        match entries.get(key) {
            Some(entry) if meta.uid.as_ref() == Some(&entry.uid) && is_older(shown, &entry.resource_version) => {
                entry.status.clone()
            }
            _ => wal.status.clone().unwrap_or_default(),
        }
    }

    /// Keeps a status that was written.
    pub(crate) fn wrote(&self, key: &WalKey, written: &Wal, now: Timestamp) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key.clone()).or_default();
        entry.uid = written.meta().uid.clone().unwrap_or_default();
        entry.resource_version = written.meta().resource_version.clone().unwrap_or_default();
        entry.status = written.status.clone().unwrap_or_default();
        entry.written = Some(now);
        entry.writing = None;
    }

    /// Whether what a watch shows is no more than what this leader wrote itself: the version that it wrote last, or, where
    /// the watch is faster than the answer, the first version with the status that it is writing.
    pub(crate) fn is_echo(&self, key: &WalKey, shown: &Wal) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get_mut(key) else { return false };
        let meta = shown.meta();
        let written =
            meta.uid.as_ref() == Some(&entry.uid) && meta.resource_version.as_ref() == Some(&entry.resource_version);
        written || entry.writing.take_if(|writing| shown.status.as_ref() == Some(writing)).is_some()
    }

    /// Tells that a status is about to be written; [`Ledger::wrote`] or [`Ledger::not_written`] follows.
    pub(crate) fn writing(&self, key: &WalKey, status: &WalStatus) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.entry(key.clone()).or_default().writing = Some(status.clone());
    }

    /// Tells that nobody knows whether it was written.
    pub(crate) fn not_written(&self, key: &WalKey) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(key) {
            entry.writing = None;
        }
    }

    /// When the status of a WAL was written last by this leader.
    pub(crate) fn written(&self, key: &WalKey) -> Option<Timestamp> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.written
    }

    /// Counts the conditions of a WAL in the metrics.
    pub(crate) fn count(&self, key: &WalKey, conditions: &[Condition]) {
        let now: Vec<_> =
            conditions.iter().map(|condition| (condition.type_.clone(), condition.status.clone())).collect();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key.clone()).or_default();
        self.recount(&entry.counted, &now);
        entry.counted = now;
        let stalled = is_stalled(conditions);
        self.metrics.stalled(entry.stalled, stalled);
        entry.stalled = stalled;
    }

    /// Forgets a WAL that is gone.
    pub(crate) fn forget(&self, key: &WalKey) {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(entry) = entry {
            self.recount(&entry.counted, &[]);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wal(version: &str, entries: i64, annotation: &str) -> Wal {
        serde_json::from_value(json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL",
            "metadata": {
                "namespace": "data", "name": "orders", "uid": "u", "resourceVersion": version,
                "annotations": {"a": annotation},
            },
            "spec": {
                "storage": {"credentials": {"type": "WorkloadIdentity"}}, "log": {"url": "s3://log/a", "expiry": "1h"},
                "metadata": {"urls": ["s3://meta"]}, "index": {"url": "s3://index/a"},
            },
            "status": {"entries": entries},
        }))
        .unwrap()
    }

    #[test]
    fn the_echo_of_a_status_is_told_from_changes_by_others_before_and_after_the_answer() {
        let (ledger, key) = (Ledger::new(Metrics::new()), WalKey::new("data", "orders"));
        let status = wal("2", 2, "").status.unwrap();
        assert!(!ledger.is_echo(&key, &wal("1", 1, "")), "nothing was written");

        ledger.writing(&key, &status);
        assert!(!ledger.is_echo(&key, &wal("2", 1, "theirs")), "somebody was first");
        assert!(ledger.is_echo(&key, &wal("3", 2, "theirs")), "the watch is faster than the answer");
        assert!(!ledger.is_echo(&key, &wal("4", 2, "approved")), "somebody changed it meanwhile");
        ledger.wrote(&key, &wal("3", 2, "theirs"), Timestamp::UNIX_EPOCH);
        assert!(!ledger.is_echo(&key, &wal("4", 2, "approved")), "the same, seen after the answer");

        ledger.writing(&key, &status);
        ledger.wrote(&key, &wal("5", 2, ""), Timestamp::UNIX_EPOCH);
        assert!(ledger.is_echo(&key, &wal("5", 2, "")), "the answer is faster than the watch");
        assert!(!ledger.is_echo(&key, &wal("6", 2, "approved")));

        ledger.writing(&key, &status);
        ledger.not_written(&key);
        assert!(!ledger.is_echo(&key, &wal("7", 2, "")), "what failed is looked at");
    }
}
