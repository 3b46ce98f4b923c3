//! Labels of Datamon's own clients, which have no marker: the versions of `label.yaml`, and which of the entries that name the
//! label each of them belongs to.
//!
//! The versions in time order, those of one second the newest first, each go to the latest token not after them that has none yet.
//! Only tokens after an entry's own compete with it, since an earlier one gets a version only where it has one already; and only
//! versions within its bound count. So everything that decides is visible once the entry's second is frozen, and nothing that
//! happens to the label later changes it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;

use super::{
    label_index::{EntryLabels, LabelIndex, UnreadEntry},
    listing::ListedEntry,
    log_reader::{FIRST_READ_BYTES, LogReader, ReadObject},
    memory_budget::MemoryShare,
    refusals::ObjectName,
};
use crate::{
    footprint::parsing_bytes,
    malformed::MalformedInput,
    mutants,
    outcome::last_in_time,
    parameters::{LogParameters, ParameterSchedule},
    payload::parse_payload,
    token::Token,
};
use tidemark_store::{StoreError, StoreSecond, StoredObject};

/// How many entries are read at once for the labels that they name.
const MAX_CONCURRENT_GETS: usize = 16;
/// Entries that are listed in one step, and about a page of a listing: what is listed beyond the window is not listed again.
const MAX_LISTED_ENTRIES: usize = 4000;
const PAGE_ENTRIES: usize = 1000;
/// After how many entries of a step others may look, too; and how many of them wait to be read at once.
const STEP_ENTRIES: usize = 256;
const CHUNK_ENTRIES: usize = 2 * MAX_CONCURRENT_GETS;
/// What one of these takes.
const READ_BYTES: u64 = 4 * 1024;
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
    pub(super) fn precedes(&self, version: StoreSecond, parameters: &LogParameters) -> bool {
        self.token.second() <= version && self.time <= version.after(parameters.whole_clock_tolerance())
    }
}

/// The entries of one label that have no version yet, from one entry on, while versions are assigned in time order.
#[derive(Debug)]
pub(super) struct VersionAssignment<'a> {
    own: Token,
    parameters: &'a LogParameters,
    /// The last second of the first entry's bound. What is visible when that is sealed are the entries up to it.
    last: StoreSecond,
    /// In token order.
    without: Vec<LabelEntry>,
}

impl<'a> VersionAssignment<'a> {
    pub(super) fn new(own: LabelEntry, parameters: &'a LogParameters) -> Self {
        Self { own: own.token, parameters, last: last_in_time(parameters, own.token), without: vec![own] }
    }

    /// More entries of the label, with later tokens than those before them.
    pub(super) fn add(&mut self, later: impl IntoIterator<Item = LabelEntry>) {
        let last = self.last;
        self.without.extend(later.into_iter().filter(|entry| !entry.has_marker && entry.time <= last));
    }

    /// Assigns the next version to the latest entry before it; gives whether that is the first one's own. All entries of the
    /// label up to its second are known.
    pub(super) fn assign(&mut self, version: StoreSecond) -> bool {
        let latest = self.without.iter().rposition(|entry| entry.precedes(version, self.parameters));
        latest.is_some_and(|latest| self.without.remove(latest).token == self.own)
    }
}

/// Whether a later entry may have written the one version that is known.
pub(super) fn is_overtaken(later: &[LabelEntry], version: StoreSecond, parameters: &LogParameters) -> bool {
    later.iter().any(|entry| entry.precedes(version, parameters))
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
    /// Entries that take much memory or time to read.
    apart: Vec<ListedEntry>,
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
            let reserved =
                CHUNK_ENTRIES as u64 * READ_BYTES + MAX_CONCURRENT_GETS as u64 * FIRST_READ_BYTES + SMALL_PARSING_BYTES;
            memory.charge(reserved).await;
            let step = self.read_window(LabelWindow { from, ..window }, schedule).await;
            memory.release(reserved);
            let step = step?;
            found.extend(step.naming);
            for entry in step.apart {
                let labels = self.read_apart(entry, schedule, memory).await?;
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
        let (mut unread, until) = index.unread(window.from, until, STEP_ENTRIES);
        if let Some(own) = unread.iter().position(|unread| unread.entry.token == window.own) {
            // One that names a label without a marker names nothing else.
            let labels = EntryLabels { paths: vec![window.path.into()], has_marker: false };
            index.note_read(unread.swap_remove(own).entry, labels);
        }
        // What has failed may fail for long: nobody waits for it who does not need it.
        let is_quick = |unread: &UnreadEntry| unread.entry.size <= FIRST_READ_BYTES && !unread.has_failed;
        let (together, apart): (Vec<_>, Vec<_>) = unread.into_iter().partition(is_quick);
        let mut apart: Vec<ListedEntry> = apart.into_iter().map(|unread| unread.entry).collect();
        for chunk in together.chunks(CHUNK_ENTRIES) {
            // Boxed, and collected before they are run: as closures of a stream the compiler cannot prove that they may move
            // between threads.
            let reads: Vec<_> = chunk.iter().map(|unread| self.read_small(unread.entry, schedule).boxed()).collect();
            let mut reads = stream::iter(reads).buffer_unordered(MAX_CONCURRENT_GETS);
            while let Some((entry, labels)) = reads.next().await {
                match labels {
                    Ok(Some(labels)) => index.note_read(entry, labels),
                    Ok(None) => apart.push(entry),
                    Err(error) => {
                        index.note_failed(entry.token);
                        return Err(error);
                    }
                }
            }
        }
        let naming = index.naming(window.path, window.from, until);
        index.evict();
        Ok(WindowStep { naming, apart, until })
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
    ) -> (ListedEntry, Result<Option<EntryLabels>, StoreError>) {
        let body = self.read_body(entry, schedule, &MemoryShare::unshared()).await;
        let labels = body.map(|body| match body {
            Some(body) if 2 * parsing_bytes(&body) > SMALL_PARSING_BYTES => None,
            Some(body) => Some(labels_in(entry.token, &body)),
            None => Some(EntryLabels::default()),
        });
        (entry, labels)
    }

    /// The labels that an entry of any size names.
    async fn read_apart(
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
        let name = ObjectName::deciding(&key);
        let (read, _) = self.read_charged(&self.log.entries, name, entry.size, limit, memory).await?;
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

    fn parameters(clock_tolerance: Duration) -> LogParameters {
        LogParameters { clock_tolerance, ..LogParameters::with_expiry(Duration::from_mins(1)) }
    }

    /// The versions that go to each of `entries`, which are in token order, at `times`.
    fn assigned(entries: &[LabelEntry], times: &[u64]) -> Vec<Option<usize>> {
        assigned_by(&parameters(Duration::ZERO), entries, times)
    }

    fn assigned_by(parameters: &LogParameters, entries: &[LabelEntry], times: &[u64]) -> Vec<Option<usize>> {
        let versions: Vec<_> = times.iter().map(|second| entry(*second, 0).time).collect();
        let one = |own: usize| {
            let (mut known, mut assignment) = (own + 1, VersionAssignment::new(entries[own], parameters));
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
        let parameters = parameters(Duration::ZERO);
        let mut assignment = VersionAssignment::new(entry(0, 1), &parameters);
        assignment.add([ours]);
        assert!(assignment.assign(entry(3, 0).time));
        assert!(is_overtaken(&[ours], entry(3, 0).time, &parameters));
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

        /// Entries whose store time is later than their token's, by a clock that leads or a slow writer, in a bound of 16 s with a
        /// tolerance that counts as 2 s.
        #[test]
        fn no_version_has_two_owners_and_none_changes_when_later_entries_become_visible(
            seconds in proptest::collection::btree_map((0u64..30, 0u8..4), 0u64..20, 1..8),
            times in proptest::collection::vec(0u64..50, 0..10),
        ) {
            let expiry = Duration::from_secs(10);
            let request_timeout = Duration::from_secs(5);
            let parameters = LogParameters { expiry, request_timeout, ..parameters(Duration::from_millis(2900)) };
            let delayed = |((second, random), delay): ((u64, u8), u64)| {
                let entry = entry(second, random);
                LabelEntry { time: entry.time.after(Duration::from_secs(delay)), ..entry }
            };
            let entries: Vec<LabelEntry> = seconds.into_iter().map(delayed).collect();
            let mut times = times;
            times.sort_unstable();
            let at = |number: usize| entry(times[number], 0).time;
            let all = assigned_by(&parameters, &entries, &times);
            let mut owned = std::collections::BTreeSet::new();
            for (own, version) in all.iter().enumerate() {
                let last = last_in_time(&parameters, entries[own].token);
                let within = version.filter(|version| at(*version) <= last);
                if let Some(version) = within.filter(|version| at(*version).after(Duration::from_secs(2)) <= last) {
                    prop_assert!(owned.insert(version), "version {version} has two owners");
                }
                // What is visible when the entry is sealed.
                let visible: Vec<LabelEntry> = entries.iter().enumerate()
                    .filter(|(number, entry)| *number == own || entry.time <= last).map(|(_, entry)| *entry).collect();
                let position = visible.iter().position(|entry| entry.token == entries[own].token).unwrap();
                let sealed = assigned_by(&parameters, &visible, &times)[position];
                prop_assert_eq!(sealed.filter(|version| at(*version) <= last), within);
            }
        }
    }
}
