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
    controllers::wal::{build::Platform, observe::Observations, upgrade::Turns},
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
    /// Types and statuses as the metrics count them.
    counted: Vec<(String, String)>,
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
    }

    /// Forgets a WAL that is gone.
    pub(crate) fn forget(&self, key: &WalKey) {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(entry) = entry {
            self.recount(&entry.counted, &[]);
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
