//! The statuses that this leader wrote last. The watch that shows them may be late, and an Event must not be written twice.

use std::collections::HashMap;

use jiff::Timestamp;
use kube::core::object::HasStatus;
use parking_lot::Mutex;

use crate::{
    cache::{NamespacedName, is_older},
    own_writes::OwnWrites,
};

/// The statuses of the objects of one kind.
#[derive(Debug)]
pub(crate) struct StatusCache<K: HasStatus> {
    inner: Mutex<StatusTable<K::Status>>,
}

#[derive(Debug)]
struct StatusTable<S> {
    entries: HashMap<NamespacedName, StatusEntry<S>>,
    own_writes: OwnWrites<NamespacedName, S>,
}

#[derive(Debug)]
struct StatusEntry<S> {
    uid: Option<String>,
    resource_version: Option<String>,
    status: S,
    written: Timestamp,
}

impl<K: HasStatus> Default for StatusCache<K> {
    fn default() -> Self {
        let table = StatusTable { entries: HashMap::new(), own_writes: OwnWrites::default() };
        Self { inner: Mutex::new(table) }
    }
}

impl<K> StatusCache<K>
where
    K: kube::Resource + HasStatus,
    K::Status: Clone + Default + PartialEq,
{
    /// The newest known status of `object`.
    pub(crate) fn status(&self, key: &NamespacedName, object: &K) -> K::Status {
        let meta = object.meta();
        let shown = meta.resource_version.as_deref().unwrap_or_default();
        match self.inner.lock().entries.get(key) {
            Some(entry)
                if meta.uid == entry.uid && is_older(shown, entry.resource_version.as_deref().unwrap_or_default()) =>
            {
                entry.status.clone()
            }
            _ => object.status().cloned().unwrap_or_default(),
        }
    }

    /// A status is about to be written; [`StatusCache::record`] or [`StatusCache::discard`] follows.
    pub(crate) fn begin(&self, key: &NamespacedName, status: &K::Status) {
        self.inner.lock().own_writes.begin(key.clone(), status.clone());
    }

    /// Keeps the answer to the write.
    pub(crate) fn record(&self, key: &NamespacedName, written: &K, now: Timestamp) {
        let mut inner = self.inner.lock();
        inner.own_writes.finish(key);
        let entry = StatusEntry {
            uid: written.meta().uid.clone(),
            resource_version: written.meta().resource_version.clone(),
            status: written.status().cloned().unwrap_or_default(),
            written: now,
        };
        inner.entries.insert(key.clone(), entry);
    }

    /// The write failed; whether it took effect is not known.
    pub(crate) fn discard(&self, key: &NamespacedName) {
        self.inner.lock().own_writes.finish(key);
    }

    /// Whether a watch shows no more than what this leader wrote: the version that it wrote last, or a pending write.
    pub(crate) fn is_own_write(&self, key: &NamespacedName, shown: &K) -> bool {
        let mut inner = self.inner.lock();
        let meta = shown.meta();
        let last = inner.entries.get(key);
        last.is_some_and(|last| meta.uid == last.uid && meta.resource_version == last.resource_version)
            || inner.own_writes.is_own_write(key, |pending| shown.status() == Some(pending))
    }

    /// When the status was written last by this leader.
    pub(crate) fn written(&self, key: &NamespacedName) -> Option<Timestamp> {
        Some(self.inner.lock().entries.get(key)?.written)
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &NamespacedName) {
        let mut inner = self.inner.lock();
        inner.own_writes.finish(key);
        inner.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_crds::Wal;

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
    fn an_own_write_is_distinguished_from_changes_by_others_before_and_after_the_answer() {
        let (statuses, key) = (StatusCache::<Wal>::default(), NamespacedName::new("data", "orders"));
        let status = wal("2", 2, "").status.unwrap();
        assert!(!statuses.is_own_write(&key, &wal("1", 1, "")), "nothing was written");

        statuses.begin(&key, &status);
        assert!(!statuses.is_own_write(&key, &wal("2", 1, "theirs")), "somebody was first");
        assert!(statuses.is_own_write(&key, &wal("3", 2, "theirs")), "the watch is faster than the answer");
        assert!(!statuses.is_own_write(&key, &wal("4", 2, "approved")), "somebody changed it meanwhile");
        statuses.record(&key, &wal("3", 2, "theirs"), Timestamp::UNIX_EPOCH);
        assert!(!statuses.is_own_write(&key, &wal("4", 2, "approved")), "the same, seen after the answer");

        statuses.begin(&key, &status);
        statuses.record(&key, &wal("5", 2, ""), Timestamp::UNIX_EPOCH);
        assert!(statuses.is_own_write(&key, &wal("5", 2, "")), "the answer is faster than the watch");
        assert!(!statuses.is_own_write(&key, &wal("6", 2, "approved")));

        statuses.begin(&key, &status);
        statuses.discard(&key);
        assert!(!statuses.is_own_write(&key, &wal("7", 2, "")), "what failed is reconciled");
    }

    #[test]
    fn a_status_that_a_late_watch_does_not_show_yet_is_the_one_that_was_written() {
        let (statuses, key) = (StatusCache::<Wal>::default(), NamespacedName::new("data", "orders"));
        statuses.record(&key, &wal("10", 5, ""), Timestamp::UNIX_EPOCH);
        assert_eq!(statuses.status(&key, &wal("9", 1, "")).entries, Some(5));
        assert_eq!(statuses.status(&key, &wal("11", 6, "")).entries, Some(6));
        statuses.forget(&key);
        assert_eq!(statuses.status(&key, &wal("9", 1, "")).entries, Some(1));
    }
}
