//! What is remembered of the versions of labels, in bounded memory.
//!
//! A store lists the newest versions first, a thousand on a page, and a reader asks for the oldest first. So the pages are listed once,
//! from the newest back to where the reader begins, and of each it is remembered where it begins. Its versions are listed again when
//! it is their turn, unless they are still held: n versions cost about `2 n / 1000` requests, however many readers ask.
//!
//! Where pages begin, pages with their versions, and what versions are, have room of their own: a page costs one request to be listed
//! again, where the pages of a label begin one for each page, so that no number of pages may displace it.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;
use parking_lot::Mutex;
use tidemark_store::{ObjectVersion, Store, StoreSecond};

/// How much is remembered of labels and of where their pages begin.
const MAX_HISTORY_BYTES: usize = 1 << 20;
/// How much is remembered of pages with their versions.
const MAX_PAGE_BYTES: usize = 2 << 20;
/// How much is remembered of whether versions bear metadata.
const MAX_MARK_BYTES: usize = 1 << 20;
/// What a version takes, with its name.
pub(super) const VERSION_BYTES: usize = 128;
/// What a label takes without its names, a page without its versions, and a mark without the version's name.
const LABEL_BYTES: usize = 512;
const PAGE_BYTES: usize = 256;
const MARK_BYTES: usize = 192;

/// The versions of a page, the newest first.
pub(super) type PageVersions = Arc<[ObjectVersion]>;

/// What is known of the versions of labels. Clones of a reader share it.
#[derive(Debug)]
pub(super) struct VersionCache {
    /// By store and key.
    histories: Mutex<SizedCache<(String, String), Arc<LabelHistory>>>,
    /// By the number of the index and of the page.
    pages: Mutex<SizedCache<(u64, usize), PageVersions>>,
    /// By the number of the history and the version's name.
    marks: Mutex<SizedCache<(u64, String), Arc<VersionMark>>>,
    next_number: AtomicU64,
}

/// Values of different sizes. Beyond the limit those are forgotten that were used the longest time ago.
#[derive(Debug)]
struct SizedCache<K: Hash + Eq, V> {
    values: LruCache<K, SizedValue<V>>,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct SizedValue<V> {
    value: V,
    bytes: usize,
}

/// What is known of the versions of one label.
#[derive(Debug)]
pub(super) struct LabelHistory {
    number: u64,
    // Held while they are listed, so that entries that are read at once ask once.
    pub(super) listing: tokio::sync::Mutex<Option<HistoryListing>>,
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
    number: u64,
    /// The newest first. Those without versions are left out.
    pages: Vec<IndexedPage>,
    /// When the newest version was written that has no name.
    nameless: Option<StoreSecond>,
    /// Held while a page is listed again, so that entries that are read at once list it once.
    pub(super) relisting: tokio::sync::Mutex<()>,
}

/// One page of them.
#[derive(Debug)]
pub(super) struct IndexedPage {
    /// The name behind which it begins.
    pub(super) after: Option<String>,
    pub(super) newest: StoreSecond,
    /// The last one.
    pub(super) oldest: ObjectVersion,
}

impl<K: Hash + Eq, V: Clone> SizedCache<K, V> {
    fn new(max_bytes: usize) -> Mutex<Self> {
        Mutex::new(Self { values: LruCache::unbounded(), bytes: 0, max_bytes })
    }

    fn get(&mut self, key: &K) -> Option<V> {
        self.values.get(key).map(|known| known.value.clone())
    }

    fn put(&mut self, key: K, value: V, bytes: usize) {
        self.bytes += bytes;
        let before = self.values.put(key, SizedValue { value, bytes });
        self.bytes -= before.map_or(0, |before| before.bytes);
        // Not this one: it would be asked for again by the next entry.
        while self.bytes > self.max_bytes
            && self.values.len() > 1
            && let Some((_, oldest)) = self.values.pop_lru()
        {
            self.bytes -= oldest.bytes;
        }
    }
}

impl Default for VersionCache {
    fn default() -> Self {
        Self {
            histories: SizedCache::new(MAX_HISTORY_BYTES),
            pages: SizedCache::new(MAX_PAGE_BYTES),
            marks: SizedCache::new(MAX_MARK_BYTES),
            next_number: AtomicU64::default(),
        }
    }
}

impl VersionCache {
    /// What is known of the versions of `key`.
    pub(super) fn history(&self, store: &Store, key: &str) -> Arc<LabelHistory> {
        let name = label_name(store, key);
        let mut histories = self.histories.lock();
        if let Some(known) = histories.get(&name) {
            return known;
        }
        let history = Arc::new(LabelHistory { number: self.next_number(), listing: tokio::sync::Mutex::default() });
        let bytes = label_bytes(&name);
        histories.put(name, history.clone(), bytes);
        history
    }

    /// Whether the version `id` bears metadata, if that is known.
    pub(super) fn mark(&self, store: &Store, key: &str, id: &str) -> Arc<VersionMark> {
        let name = (self.history(store, key).number, id.to_owned());
        let mut marks = self.marks.lock();
        if let Some(known) = marks.get(&name) {
            return known;
        }
        let mark = Arc::new(VersionMark::default());
        marks.put(name, mark.clone(), MARK_BYTES + id.len());
        mark
    }

    /// Remembers `history`, whose listing takes `bytes` by now.
    pub(super) fn note_listing(&self, store: &Store, key: &str, history: &Arc<LabelHistory>, bytes: usize) {
        let name = label_name(store, key);
        let bytes = label_bytes(&name) + bytes;
        self.histories.lock().put(name, history.clone(), bytes);
    }

    /// An index without pages.
    pub(super) fn new_index(&self) -> VersionIndex {
        let (number, relisting) = (self.next_number(), tokio::sync::Mutex::default());
        VersionIndex { number, pages: Vec::new(), nameless: None, relisting }
    }

    /// Adds the next page of `index` that was listed, behind `after`.
    pub(super) fn add_page(&self, index: &mut VersionIndex, after: Option<String>, versions: Vec<ObjectVersion>) {
        if index.add(after, &versions) {
            self.hold_page(index, index.pages.len() - 1, versions.into());
        }
    }

    /// The versions of a page of `index`, if they are held.
    pub(super) fn page(&self, index: &VersionIndex, number: usize) -> Option<PageVersions> {
        self.pages.lock().get(&(index.number, number))
    }

    pub(super) fn hold_page(&self, index: &VersionIndex, number: usize, versions: PageVersions) {
        let bytes = PAGE_BYTES + versions.len() * VERSION_BYTES;
        self.pages.lock().put((index.number, number), versions, bytes);
    }

    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}

fn label_name(store: &Store, key: &str) -> (String, String) {
    (store.url().to_string(), key.to_owned())
}

fn label_bytes(name: &(String, String)) -> usize {
    LABEL_BYTES + name.0.len() + name.1.len()
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
    /// Adds the next page, unless it is empty.
    fn add(&mut self, after: Option<String>, versions: &[ObjectVersion]) -> bool {
        let newest = versions.iter().map(|version| version.time).max();
        let (Some(newest), Some(oldest)) = (newest, versions.last().cloned()) else { return false };
        let nameless = versions.iter().filter(|version| version.id.is_none()).map(|version| version.time).max();
        self.nameless = self.nameless.max(nameless);
        self.pages.push(IndexedPage { after, newest, oldest });
        true
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

    /// What it takes in memory, in bytes.
    fn bytes(&self) -> usize {
        let names = self.pages.iter().filter_map(|page| page.after.as_ref()).map(String::len).sum::<usize>();
        self.pages.len() * PAGE_BYTES + names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted_bytes<K: Hash + Eq, V>(cache: &Mutex<SizedCache<K, V>>) -> usize {
        let cache = cache.lock();
        assert_eq!(cache.bytes, cache.values.iter().map(|(_, known)| known.bytes).sum::<usize>());
        cache.bytes
    }

    fn page_of(count: u64) -> Vec<ObjectVersion> {
        let version = |number| ObjectVersion {
            id: Some(format!("{number}")),
            time: StoreSecond::from_unix(1_700_000_000 + number),
        };
        (0..count).rev().map(version).collect()
    }

    #[test]
    fn labels_of_which_nothing_is_known_take_room_too() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        for number in 0..20_000 {
            cache.history(&store, &format!("labels/r/{number}/label.yaml"));
        }
        assert!((MAX_HISTORY_BYTES / 2..=MAX_HISTORY_BYTES).contains(&counted_bytes(&cache.histories)));
    }

    #[test]
    fn one_label_of_many_versions_is_remembered_and_does_not_grow_without_end() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        let history = cache.history(&store, "many");
        for number in 0..20_000 {
            cache.mark(&store, "many", &number.to_string());
        }
        for number in 0..20_000 {
            cache.mark(&store, &number.to_string(), "1");
            cache.history(&store, "many");
        }
        assert!((MAX_MARK_BYTES / 2..=MAX_MARK_BYTES).contains(&counted_bytes(&cache.marks)));
        assert!(counted_bytes(&cache.histories) <= MAX_HISTORY_BYTES);
        assert!(Arc::ptr_eq(&history, &cache.history(&store, "many")));
    }

    #[test]
    fn what_was_forgotten_while_it_was_listed_is_remembered_again() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        let history = cache.history(&store, "slow");
        for number in 0..20_000 {
            cache.history(&store, &number.to_string());
        }
        assert!(!Arc::ptr_eq(&history, &cache.history(&store, "slow")));
        cache.note_listing(&store, "slow", &history, 1000);
        assert!(Arc::ptr_eq(&history, &cache.history(&store, "slow")));
        counted_bytes(&cache.histories);
    }

    #[test]
    fn pages_displace_pages_and_not_where_they_begin() {
        let (cache, store) = (VersionCache::default(), Store::memory());
        let labels: Vec<String> = (0..100).map(|number| format!("labels/r/{number}/label.yaml")).collect();
        let histories: Vec<_> = labels.iter().map(|label| cache.history(&store, label)).collect();
        for (label, history) in labels.iter().zip(&histories) {
            let mut index = cache.new_index();
            for _ in 0..5 {
                cache.add_page(&mut index, Some("x".repeat(64)), page_of(1000));
            }
            cache.note_listing(&store, label, history, index.bytes());
            assert!(cache.page(&index, 4).is_some());
        }
        assert!((MAX_PAGE_BYTES / 2..=MAX_PAGE_BYTES).contains(&counted_bytes(&cache.pages)));
        assert!(counted_bytes(&cache.histories) <= MAX_HISTORY_BYTES);
        for (label, history) in labels.iter().zip(&histories) {
            assert!(Arc::ptr_eq(history, &cache.history(&store, label)));
        }
    }
}
