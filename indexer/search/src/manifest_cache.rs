//! The manifests that stay open for pages.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use tidemark_catalog::Manifest;
use tidemark_store::ChainRecord;

use super::page_cursor::view_fingerprint;
use crate::segment::ManifestView;

/// How many manifests that were served stay open.
const MAX_SERVED: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// How many others stay open that a cursor named.
const MAX_REQUESTED: NonZeroUsize = NonZeroUsize::new(4).unwrap();

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
    served: LruCache<IndexKey, OpenManifest>,
    requested: LruCache<IndexKey, OpenManifest>,
}

impl Default for ManifestCache {
    fn default() -> Self {
        let (served, requested) = (LruCache::new(MAX_SERVED), LruCache::new(MAX_REQUESTED));
        Self(Mutex::new(ManifestCaches { served, requested }))
    }
}

impl ManifestCache {
    pub(crate) fn insert_served(&self, open: OpenManifest) {
        self.0.lock().served.put(open.key(), open);
    }

    pub(crate) fn insert_requested(&self, open: OpenManifest) {
        self.0.lock().requested.put(open.key(), open);
    }

    pub(crate) fn get(&self, number: u64, fingerprint: u64) -> Option<OpenManifest> {
        let (mut caches, key) = (self.0.lock(), (number, fingerprint));
        // Peeked at: the served ones leave in the order in which they were served, however often a page uses an old one.
        if let Some(open) = caches.served.peek(&key) {
            return Some(open.clone());
        }
        caches.requested.get(&key).cloned()
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

    #[test]
    fn manifests_that_are_asked_for_do_not_close_those_that_were_served() {
        let cache = ManifestCache::default();
        (100..108).for_each(|number| cache.insert_served(open(number)));
        (0..50).for_each(|number| cache.insert_requested(open(number)));
        assert!((100..108).all(|number| cache.get(number, 1).is_some()));
        assert_eq!((0..50).filter(|number| cache.get(*number, 1).is_some()).count(), MAX_REQUESTED.get());
        assert!(cache.get(107, 2).is_none());
    }
}
