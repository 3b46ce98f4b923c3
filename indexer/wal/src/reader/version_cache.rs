//! What is remembered of the versions of labels, in bounded memory.
//!
//! A store lists the newest versions first, a thousand on a page, and a reader asks for the oldest first. So the pages are listed once,
//! from the newest back to where the reader begins, and of each it is remembered where it begins. Its versions are listed again when
//! it is their turn, unless they are still held: n versions cost about `2 n / 1000` requests, however many readers ask.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use lru::LruCache;
use parking_lot::Mutex;
use tidemark_store::{ObjectVersion, Store, StoreSecond};

/// How much is remembered. Beyond it the labels are forgotten that were asked for the longest time ago.
const MAX_CACHE_BYTES: usize = 4 << 20;
/// What a version takes, with its name.
pub(super) const VERSION_BYTES: usize = 128;
/// What a label takes without its names and versions, and what a page does without its versions.
const LABEL_BYTES: usize = 512;
const PAGE_BYTES: usize = 256;
/// Pages of one label that are held with their versions.
const MAX_HELD_PAGES: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// Versions of one label of which it is remembered whether they bear metadata.
const MAX_MARKS: usize = 8192;

/// What is known of the versions of labels. Clones of a reader share it.
#[derive(Debug, Default)]
pub(super) struct VersionCache(Mutex<CachedHistories>);

#[derive(Debug)]
struct CachedHistories {
    /// By store and key.
    by_label: LruCache<(String, String), CachedHistory>,
    bytes: usize,
}

#[derive(Debug)]
struct CachedHistory {
    history: Arc<LabelHistory>,
    bytes: usize,
}

/// What is known of the versions of one label.
#[derive(Debug)]
pub(super) struct LabelHistory {
    // Held while they are listed, so that entries that are read at once ask once.
    pub(super) listing: tokio::sync::Mutex<Option<HistoryListing>>,
    marks: Mutex<LruCache<String, Arc<VersionMark>>>,
    bytes: AtomicUsize,
}

/// Whether a version's metadata names an operation; `None` while it was not read. Held while it is read, so that entries that are
/// read at once read it once.
pub(super) type VersionMark = tokio::sync::Mutex<Option<bool>>;

/// The versions of a label as they were listed at some time.
#[derive(Debug)]
pub(super) struct HistoryListing {
    /// The horizon before the listing: for all entries below it nothing is missing.
    pub(super) horizon: StoreSecond,
    /// Since when they were listed.
    pub(super) from: StoreSecond,
    /// `None`: the store keeps none.
    pub(super) index: Option<Arc<VersionIndex>>,
}

/// Where the pages of a label's versions begin.
#[derive(Debug)]
pub(super) struct VersionIndex {
    /// The newest first. Those without versions are left out.
    pages: Vec<IndexedPage>,
    /// When the newest version was written that has no name.
    nameless: Option<StoreSecond>,
    /// Versions by the number of their page. Held while one is listed.
    pub(super) held: tokio::sync::Mutex<LruCache<usize, Arc<[ObjectVersion]>>>,
}

/// One page of them.
#[derive(Debug)]
pub(super) struct IndexedPage {
    /// The name behind which it begins.
    pub(super) after: Option<String>,
    pub(super) newest: StoreSecond,
    /// The last one.
    pub(super) oldest: ObjectVersion,
    /// How many versions it had.
    count: usize,
}

impl Default for CachedHistories {
    fn default() -> Self {
        Self { by_label: LruCache::unbounded(), bytes: 0 }
    }
}

impl Default for VersionIndex {
    fn default() -> Self {
        Self { pages: Vec::new(), nameless: None, held: tokio::sync::Mutex::new(LruCache::new(MAX_HELD_PAGES)) }
    }
}

impl VersionCache {
    /// What is known of the versions of `key`.
    pub(super) fn history(&self, store: &Store, key: &str) -> Arc<LabelHistory> {
        let name = (store.url().to_string(), key.to_owned());
        let mut cached = self.0.lock();
        if let Some(known) = cached.by_label.get(&name) {
            return known.history.clone();
        }
        let (listing, marks) = (tokio::sync::Mutex::default(), Mutex::new(LruCache::unbounded()));
        let history = Arc::new(LabelHistory { listing, marks, bytes: AtomicUsize::new(0) });
        cached.put(name, history.clone());
        history
    }

    /// Whether the version `id` bears metadata, if that is known.
    pub(super) fn mark(&self, store: &Store, key: &str, id: &str) -> Arc<VersionMark> {
        let history = self.history(store, key);
        let (mark, is_more) = {
            let mut marks = history.marks.lock();
            if let Some(known) = marks.get(id) {
                return known.clone();
            }
            let mark = Arc::new(VersionMark::default());
            marks.put(id.to_owned(), mark.clone());
            let is_full = marks.len() > MAX_MARKS && marks.pop_lru().is_some();
            (mark, !is_full)
        };
        if is_more {
            self.resize(store, key, &history, 0, VERSION_BYTES + id.len());
        }
        mark
    }

    /// A part of what is known of `key` takes `after` bytes now, and took `before`.
    pub(super) fn resize(&self, store: &Store, key: &str, history: &Arc<LabelHistory>, before: usize, after: usize) {
        history.bytes.fetch_add(after, Ordering::Relaxed);
        history.bytes.fetch_sub(before, Ordering::Relaxed);
        self.0.lock().put((store.url().to_string(), key.to_owned()), history.clone());
    }
}

impl CachedHistories {
    /// Counts what is known of a label by now.
    fn put(&mut self, name: (String, String), history: Arc<LabelHistory>) {
        let bytes = LABEL_BYTES + name.0.len() + name.1.len() + history.bytes.load(Ordering::Relaxed);
        self.bytes += bytes;
        let before = self.by_label.put(name, CachedHistory { history, bytes });
        self.bytes -= before.map_or(0, |before| before.bytes);
        // Not this one: it would be listed again for the next entry.
        while self.bytes > MAX_CACHE_BYTES
            && self.by_label.len() > 1
            && let Some((_, oldest)) = self.by_label.pop_lru()
        {
            self.bytes -= oldest.bytes;
        }
    }
}

impl HistoryListing {
    /// Whether it shows everything that decides about an entry of second `own`.
    pub(super) fn suffices_for(&self, own: StoreSecond) -> bool {
        own < self.horizon && self.from <= own
    }
}

impl HistoryListing {
    /// What it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.index.as_ref().map_or(0, |index| index.bytes())
    }
}

impl VersionIndex {
    /// Adds the next page that was listed, behind `after`.
    pub(super) fn add(&mut self, after: Option<String>, versions: Vec<ObjectVersion>) {
        let newest = versions.iter().map(|version| version.time).max();
        let (Some(newest), Some(oldest)) = (newest, versions.last().cloned()) else { return };
        let nameless = versions.iter().filter(|version| version.id.is_none()).map(|version| version.time).max();
        self.nameless = self.nameless.max(nameless);
        self.pages.push(IndexedPage { after, newest, oldest, count: versions.len() });
        self.held.get_mut().put(self.pages.len() - 1, versions.into());
    }

    /// Whether there is no version at all.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Whether each version since `from` has a name. One without replaced others of its kind.
    pub(super) fn are_all_named(&self, from: StoreSecond) -> bool {
        self.nameless.is_none_or(|time| time < from)
    }

    /// The oldest page that has versions of `from` or later.
    pub(super) fn oldest_page(&self, from: StoreSecond) -> Option<usize> {
        self.pages.iter().rposition(|page| page.newest >= from)
    }

    pub(super) fn page(&self, number: usize) -> &IndexedPage {
        &self.pages[number]
    }

    /// What it takes with as many pages as are held at most.
    pub(super) fn bytes(&self) -> usize {
        let held = self.pages.len().min(MAX_HELD_PAGES.get());
        let largest = self.pages.iter().map(|page| page.count).max().unwrap_or_default();
        let names = self.pages.iter().filter_map(|page| page.after.as_ref()).map(String::len).sum::<usize>();
        self.pages.len() * PAGE_BYTES + names + held * largest * VERSION_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_bytes(cache: &VersionCache) -> usize {
        let cached = cache.0.lock();
        assert_eq!(cached.bytes, cached.by_label.iter().map(|(_, known)| known.bytes).sum::<usize>());
        cached.bytes
    }

    #[test]
    fn labels_of_which_nothing_is_known_take_room_too() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        for number in 0..20_000 {
            cache.history(&store, &format!("labels/r/{number}/label.yaml"));
        }
        assert!((MAX_CACHE_BYTES / 2..=MAX_CACHE_BYTES).contains(&held_bytes(&cache)));
    }

    #[test]
    fn one_label_of_many_versions_is_remembered_and_does_not_grow_without_end() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        let history = cache.history(&store, "many");
        for number in 0..3 * MAX_MARKS {
            cache.mark(&store, "many", &number.to_string());
        }
        for number in 0..20_000 {
            cache.mark(&store, &number.to_string(), "1");
            cache.history(&store, "many");
        }
        assert!(held_bytes(&cache) <= MAX_CACHE_BYTES);
        assert!(Arc::ptr_eq(&history, &cache.history(&store, "many")));
        assert!(history.bytes.load(Ordering::Relaxed) < 2 * VERSION_BYTES * MAX_MARKS);
    }

    #[test]
    fn what_was_forgotten_while_it_was_listed_is_remembered_again() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        let history = cache.history(&store, "slow");
        for number in 0..20_000 {
            cache.history(&store, &number.to_string());
        }
        assert!(!Arc::ptr_eq(&history, &cache.history(&store, "slow")));
        cache.resize(&store, "slow", &history, 0, 1000);
        assert!(Arc::ptr_eq(&history, &cache.history(&store, "slow")));
        held_bytes(&cache);
    }
}
