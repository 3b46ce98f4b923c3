//! Labels of Datamon's own clients, which have no marker: the versions of `label.yaml`, and which of the entries that name the
//! label each of them belongs to.
//!
//! The versions in time order each go to the latest token not after them that has none yet. Only tokens after an entry's own
//! compete with it, since an earlier one gets a version only where it has one already; and only versions within its bound count.
//! So everything that decides is visible once the entry's second is frozen, and nothing that happens to the label later changes it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;

use super::{
    label_index::{EntryLabels, LabelIndex},
    listing::ListedEntry,
    log_reader::{FIRST_READ_BYTES, LogReader, ReadObject},
    memory_budget::MemoryShare,
};
use crate::{
    footprint::parsing_bytes, malformed::MalformedInput, mutants, parameters::ParameterSchedule,
    payload::parse_payload, token::Token,
};
use tidemark_store::{StoreError, StoreSecond, StoredObject};

/// How many entries are read at once for the labels that they name.
const MAX_CONCURRENT_GETS: usize = 16;
/// Entries that are listed in one step, and about a page of a listing: what is listed beyond the window is not listed again.
const MAX_LISTED_ENTRIES: usize = 4000;
const PAGE_ENTRIES: usize = 1000;
/// How far beyond the window of one label a listing goes for the next ones.
const LISTED_AHEAD: Duration = Duration::from_secs(50);
/// What parsing a small entry may take. One that may take more is read alone.
const SMALL_PARSING_BYTES: u64 = 64 * 1024;

/// An entry that names a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LabelEntry {
    pub(super) token: Token,
    /// Its store time.
    pub(super) time: StoreSecond,
    /// Whether a marker completes it, so that no version is its own.
    pub(super) has_marker: bool,
}

impl LabelEntry {
    /// Whether the entry was there when a version of this time was written. Its time may be of another store's clock.
    pub(super) fn precedes(&self, version: StoreSecond, tolerance: Duration) -> bool {
        self.token.second() <= version && self.time <= version.after(tolerance)
    }
}

/// The entries of one label that have no version yet, from one entry on, while versions are assigned in time order.
#[derive(Debug)]
pub(super) struct VersionAssignment {
    own: Token,
    tolerance: Duration,
    /// In token order.
    without: Vec<LabelEntry>,
}

impl VersionAssignment {
    pub(super) fn new(own: LabelEntry, tolerance: Duration) -> Self {
        Self { own: own.token, tolerance, without: vec![own] }
    }

    /// More entries of the label, with later tokens than those before them.
    pub(super) fn add(&mut self, later: impl IntoIterator<Item = LabelEntry>) {
        self.without.extend(later.into_iter().filter(|entry| !entry.has_marker));
    }

    /// Assigns the next version to the latest entry before it; gives whether that is the first one's own. All entries of the
    /// label up to its second are known.
    pub(super) fn assign(&mut self, version: StoreSecond) -> bool {
        let latest = self.without.iter().rposition(|entry| entry.precedes(version, self.tolerance));
        latest.is_some_and(|latest| self.without.remove(latest).token == self.own)
    }
}

/// Whether a later entry may have written the one version that is known.
pub(super) fn is_overtaken(later: &[LabelEntry], version: StoreSecond, tolerance: Duration) -> bool {
    later.iter().any(|entry| entry.precedes(version, tolerance))
}

/// The labels that the log's entries name, as far as it was read ahead. Clones of a reader share it.
#[derive(Debug, Default)]
pub(super) struct LabelLookahead {
    // Held while the log is listed and read, so that each entry is read once, and never while memory is waited for: an older
    // entry that waits here would keep the memory that a younger one needs.
    index: Mutex<LabelIndex>,
    /// Every second below it is frozen, as [`LogReader::seal`] set it.
    horizon: AtomicU64,
}

impl LabelLookahead {
    pub(super) fn horizon(&self) -> StoreSecond {
        StoreSecond::from_unix(self.horizon.load(Ordering::Relaxed))
    }

    pub(super) fn raise_horizon(&self, horizon: StoreSecond) {
        self.horizon.fetch_max(horizon.unix(), Ordering::Relaxed);
    }
}

/// The part of the log in which the entries of a label are looked for.
#[derive(Clone, Copy)]
pub(super) struct LabelWindow<'a> {
    pub(super) path: &'a str,
    /// Entries with later tokens than this one are.
    pub(super) own: Token,
    pub(super) from: StoreSecond,
    /// The last second.
    pub(super) until: StoreSecond,
}

/// What one step through a window has found.
struct WindowStep {
    naming: Vec<LabelEntry>,
    /// Entries that take much memory to read.
    large: Vec<ListedEntry>,
    /// The last second that is known.
    until: StoreSecond,
}

impl LogReader {
    /// Every second below `horizon` is frozen: what the store shows from now on decides about its entries for good. What was
    /// listed for one of them need not be listed again for the others.
    pub fn seal(&self, horizon: StoreSecond) {
        self.labels.raise_horizon(horizon);
    }

    /// The entries of the window that name its label, in token order.
    pub(super) async fn label_entries(
        &self,
        window: LabelWindow<'_>,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Vec<LabelEntry>, StoreError> {
        let (mut found, mut from) = (Vec::new(), window.from);
        while from <= window.until {
            // One is parsed at a time.
            let reserved = MAX_CONCURRENT_GETS as u64 * FIRST_READ_BYTES + SMALL_PARSING_BYTES;
            memory.charge(reserved).await;
            let step = self.read_window(LabelWindow { from, ..window }, schedule).await;
            memory.release(reserved);
            let step = step?;
            found.extend(step.naming);
            for entry in step.large {
                let labels = self.read_large(entry, schedule, memory).await?;
                found.extend(labels.naming(&entry, window.path));
                self.labels.index.lock().await.note_read(entry, labels);
            }
            from = step.until.next();
        }
        found.retain(|entry| entry.token > window.own);
        found.sort_by_key(|entry| entry.token);
        Ok(mutants::later_entries(found))
    }

    /// Reads the small entries of the window that are not read yet, as far as one step goes.
    async fn read_window(
        &self,
        window: LabelWindow<'_>,
        schedule: &ParameterSchedule,
    ) -> Result<WindowStep, StoreError> {
        let mut index = self.labels.index.lock().await;
        let until = self.list_window(&mut index, window).await?;
        let mut unread = index.unread(window.from, until);
        if let Some(own) = unread.iter().position(|entry| entry.token == window.own) {
            // One that names a label without a marker names nothing else.
            index
                .note_read(unread.swap_remove(own), EntryLabels { paths: vec![window.path.into()], has_marker: false });
        }
        let (small, mut large): (Vec<_>, Vec<_>) = unread.into_iter().partition(|entry| entry.size <= FIRST_READ_BYTES);
        // Boxed, and collected before they are run: as closures of a stream the compiler cannot prove that they may move between
        // threads.
        let reads: Vec<_> = small.into_iter().map(|entry| self.read_small(entry, schedule).boxed()).collect();
        let mut reads = stream::iter(reads).buffer_unordered(MAX_CONCURRENT_GETS);
        while let Some((entry, labels)) = reads.try_next().await? {
            match labels {
                Some(labels) => index.note_read(entry, labels),
                None => large.push(entry),
            }
        }
        let naming = index.naming(window.path, window.from, until);
        index.evict();
        Ok(WindowStep { naming, large, until })
    }

    /// Lists what of the window is not listed, one step of it; gives the last second that is known.
    async fn list_window(&self, index: &mut LabelIndex, window: LabelWindow<'_>) -> Result<StoreSecond, StoreError> {
        let LabelWindow { own, from, until, .. } = window;
        let (horizon, own) = (self.labels.horizon(), own.second());
        let Some(start) = index.first_unlisted(horizon, own, from, until) else { return Ok(until) };
        let is_frozen = own < horizon;
        let end = if is_frozen { until.after(LISTED_AHEAD).next() } else { until.next() };
        let mut listing = self.clone().with_one_listing().list(start, end);
        let (mut second, mut entries, mut count, mut reached) = (start, Vec::new(), 0, end);
        while let Some(listed) = listing.try_next().await? {
            if listed.token.second() > second && !entries.is_empty() {
                index.note_listed(second, std::mem::take(&mut entries));
                if count >= MAX_LISTED_ENTRIES || (count >= PAGE_ENTRIES && second >= until) {
                    reached = second.next();
                    break;
                }
            }
            (second, count) = (listed.token.second(), count + 1);
            entries.push(listed);
        }
        if !entries.is_empty() {
            index.note_listed(second, entries);
        }
        if is_frozen {
            index.note_range(start..reached);
        }
        Ok(reached.before(Duration::from_secs(1)).min(until))
    }

    /// The labels that a small entry names; `None` where that takes much to tell.
    async fn read_small(
        &self,
        entry: ListedEntry,
        schedule: &ParameterSchedule,
    ) -> Result<(ListedEntry, Option<EntryLabels>), StoreError> {
        let body = self.read_body(entry, schedule, &MemoryShare::unshared()).await?;
        let labels = match body {
            Some(body) if 2 * parsing_bytes(&body) > SMALL_PARSING_BYTES => None,
            Some(body) => Some(labels_in(entry.token, &body)),
            None => Some(EntryLabels::default()),
        };
        Ok((entry, labels))
    }

    /// The labels that an entry of any size names.
    async fn read_large(
        &self,
        entry: ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<EntryLabels, StoreError> {
        let charged = entry.size.max(FIRST_READ_BYTES);
        memory.charge(charged).await;
        let body = self.read_body(entry, schedule, memory).await?;
        let estimate = body.as_ref().map_or(0, |body| 2 * parsing_bytes(body));
        memory.charge(estimate).await;
        let labels = body.map_or_else(EntryLabels::default, |body| labels_in(entry.token, &body));
        memory.release(estimate + charged);
        Ok(labels)
    }

    /// The entry's body, of which its size is charged; `None` where it is too large, gone, or judged without being read.
    async fn read_body(
        &self,
        entry: ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Option<Bytes>, StoreError> {
        let (key, limit) = (entry.token.to_string(), schedule.at(entry.token.second()).max_entry_size);
        if entry.size > limit {
            return Ok(None);
        }
        let (read, _) = self.read_charged(&self.log.entries, &key, entry.size, limit, memory).await?;
        Ok(match read {
            ReadObject::Read(StoredObject { body, .. }) => body,
            ReadObject::Absent | ReadObject::Refused { .. } => None,
        })
    }
}

/// The labels that the entry with this body names.
fn labels_in(token: Token, body: &Bytes) -> EntryLabels {
    parse_labels(|| parse_payload(token, body).map(|intent| EntryLabels::of(&intent)))
}

/// What `parse` finds. An entry that is malformed names no label, and one whose reading panics is judged in its own turn.
fn parse_labels(parse: impl FnOnce() -> Result<EntryLabels, MalformedInput>) -> EntryLabels {
    let parsed = catch_unwind(AssertUnwindSafe(parse));
    parsed.ok().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(second: u64, random: u8) -> LabelEntry {
        let time = StoreSecond::from_unix(1_700_000_000 + second);
        LabelEntry { token: Token::from_parts(time, [random; 16]), time, has_marker: false }
    }

    /// The versions that go to each of `entries`, which are in token order, at `times`.
    fn assigned(entries: &[LabelEntry], times: &[u64]) -> Vec<Option<usize>> {
        let versions: Vec<_> = times.iter().map(|second| entry(*second, 0).time).collect();
        let one = |own: usize| {
            let (mut known, mut assignment) = (own + 1, VersionAssignment::new(entries[own], Duration::ZERO));
            (0..versions.len()).filter(|number| versions[*number] >= entries[own].token.second()).find(|number| {
                // Later entries become known with the versions.
                let seen = entries.partition_point(|entry| entry.token.second() <= versions[*number]);
                assignment.add(entries[known..seen.max(known)].iter().copied());
                known = seen.max(known);
                assignment.assign(versions[*number])
            })
        };
        (0..entries.len()).map(one).collect()
    }

    #[test]
    fn each_version_goes_to_the_latest_token_without_one() {
        let entries = [entry(0, 1), entry(2, 1), entry(9, 1)];
        assert_eq!(assigned(&entries, &[1, 3, 9]), [Some(0), Some(1), Some(2)]);
        // The second one crashed.
        assert_eq!(assigned(&entries, &[1, 9]), [Some(0), None, Some(1)]);
        // The first one did.
        assert_eq!(assigned(&entries, &[3, 10]), [None, Some(0), Some(1)]);
        // Two that overlap.
        assert_eq!(assigned(&entries[..2], &[3, 4]), [Some(1), Some(0)]);
        assert_eq!(assigned(&[entry(0, 1), entry(0, 2)], &[0, 0]), [Some(1), Some(0)]);
    }

    #[test]
    fn an_entry_that_a_marker_completes_takes_no_version() {
        let ours = LabelEntry { has_marker: true, ..entry(2, 1) };
        let mut assignment = VersionAssignment::new(entry(0, 1), Duration::ZERO);
        assignment.add([ours]);
        assert!(assignment.assign(entry(3, 0).time));
        assert!(is_overtaken(&[ours], entry(3, 0).time, Duration::ZERO));
    }

    #[test]
    fn an_entry_whose_reading_panics_names_no_label() {
        assert!(parse_labels(|| panic!("index out of bounds")).paths.is_empty());
        assert!(parse_labels(|| Err(MalformedInput::new("binary"))).paths.is_empty());
        let labels = || EntryLabels { paths: vec!["labels/r/v1/label.yaml".into()], has_marker: false };
        assert_eq!(parse_labels(|| Ok(labels())).paths, labels().paths);
    }

    proptest! {
        /// What one entry sees of those after it is what a fold over all of them gives.
        #[test]
        fn each_entry_alone_decides_as_all_together(
            seconds in proptest::collection::btree_set((0u64..30, 0u8..4), 1..8),
            times in proptest::collection::vec(0u64..40, 0..8),
        ) {
            let entries: Vec<LabelEntry> = seconds.into_iter().map(|(second, random)| entry(second, random)).collect();
            let mut times = times;
            times.sort_unstable();
            let mut expected = vec![None; entries.len()];
            for (number, time) in times.iter().enumerate() {
                let time = StoreSecond::from_unix(1_700_000_000 + time);
                let free = (0..entries.len()).rev().find(|at| expected[*at].is_none() && entries[*at].token.second() <= time);
                if let Some(at) = free {
                    expected[at] = Some(number);
                }
            }
            prop_assert_eq!(assigned(&entries, &times), expected);
        }
    }
}
