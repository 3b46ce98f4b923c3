//! The manifests that stay open for pages.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use tidemark_catalog::{GARBAGE_GRACE, Manifest};
use tidemark_store::{ChainRecord, RECORD_RETENTION};
use tokio::time::{Duration, Instant};

use super::page_cursor::view_fingerprint;
use crate::segment::ManifestView;

/// How many manifests that were served stay open.
const MAX_SERVED: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// How many others stay open that a cursor named.
const MAX_REQUESTED: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// For how long a manifest that a newer one follows stays open. The objects that only a served one names are deleted a grace after
/// the newer one was recorded, and that was no earlier than when this one was opened. A manifest that a cursor named may have been
/// followed at any time, since records stay longer than [`RECORD_RETENTION`] where none are trimmed: each use of it reads the
/// boundary.
const MAX_AGE: Duration = GARBAGE_GRACE.checked_div(2).unwrap().saturating_sub(RECORD_RETENTION);

/// A manifest with its number, open.
#[derive(Clone)]
pub(crate) struct OpenManifest {
    /// 0 where the index has none yet.
    pub(crate) number: u64,
    /// Tells it from the manifests of the same number in other indexes.
    pub(crate) fingerprint: u64,
    pub(crate) index: Arc<ManifestView>,
}

impl OpenManifest {
    pub(crate) fn new(slot: &ChainRecord<Manifest>, index: Arc<ManifestView>) -> Self {
        Self { number: slot.number, fingerprint: view_fingerprint(&slot.hash), index }
    }

    fn key(&self) -> IndexKey {
        (self.number, self.fingerprint)
    }
}

/// Number and fingerprint of a manifest.
type IndexKey = (u64, u64);

/// The manifests that were served last and, apart from them, those that cursors named: a client that asks for old manifests
/// does not close those that others page through.
pub(crate) struct ManifestCache(Mutex<ManifestCaches>);

struct ManifestCaches {
    served: LruCache<IndexKey, CachedManifest>,
    requested: LruCache<IndexKey, CachedManifest>,
}

struct CachedManifest {
    open: OpenManifest,
    /// When it was opened, or was served last as the newest one.
    since: Instant,
}

impl CachedManifest {
    fn new(open: OpenManifest) -> Self {
        Self { open, since: Instant::now() }
    }

    fn usable(&self) -> Option<OpenManifest> {
        (self.since.elapsed() < MAX_AGE).then(|| self.open.clone())
    }
}

impl Default for ManifestCache {
    fn default() -> Self {
        let (served, requested) = (LruCache::new(MAX_SERVED), LruCache::new(MAX_REQUESTED));
        Self(Mutex::new(ManifestCaches { served, requested }))
    }
}

impl ManifestCache {
    pub(crate) fn insert_served(&self, open: OpenManifest) {
        self.0.lock().served.put(open.key(), CachedManifest::new(open));
    }

    pub(crate) fn insert_requested(&self, open: OpenManifest) {
        self.0.lock().requested.put(open.key(), CachedManifest::new(open));
    }

    /// The one that was served, usable as it is.
    pub(crate) fn served(&self, number: u64, fingerprint: u64) -> Option<OpenManifest> {
        // Peeked at: the served ones leave in the order in which they were served, however often a page uses an old one.
        self.0.lock().served.peek(&(number, fingerprint)).and_then(CachedManifest::usable)
    }

    /// The one that a cursor named before, usable if its record is above the chain's boundary still.
    pub(crate) fn requested(&self, number: u64, fingerprint: u64) -> Option<OpenManifest> {
        self.0.lock().requested.get(&(number, fingerprint)).and_then(CachedManifest::usable)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::Generation;

    use super::*;

    fn open(number: u64) -> OpenManifest {
        let manifest = Manifest::new(Generation::first());
        OpenManifest {
            number,
            fingerprint: 1,
            index: Arc::new(ManifestView { manifest, segments: Vec::new(), marks: Arc::default() }),
        }
    }

    /// What only they name may be deleted by then: a page must say that its manifest is gone, not that the index is damaged.
    #[tokio::test(start_paused = true)]
    async fn an_old_manifest_does_not_stay_open_until_its_objects_are_deleted() {
        let cache = ManifestCache::default();
        cache.insert_served(open(1));
        cache.insert_requested(open(2));
        tokio::time::advance(MAX_AGE.saturating_sub(Duration::from_secs(1))).await;
        assert!(cache.served(1, 1).is_some() && cache.requested(2, 1).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.served(1, 1).is_none() && cache.requested(2, 1).is_none());
        assert!(MAX_AGE + RECORD_RETENTION < GARBAGE_GRACE);
    }

    #[test]
    fn manifests_that_are_asked_for_do_not_close_those_that_were_served() {
        let cache = ManifestCache::default();
        (100..108).for_each(|number| cache.insert_served(open(number)));
        (0..50).for_each(|number| cache.insert_requested(open(number)));
        assert!((100..108).all(|number| cache.served(number, 1).is_some()));
        assert_eq!((0..50).filter(|number| cache.requested(*number, 1).is_some()).count(), MAX_REQUESTED.get());
        assert!(cache.served(107, 2).is_none());
    }
}
