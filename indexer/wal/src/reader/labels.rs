//! Which entries of the log name a label: the log is read ahead for that, each entry once however many labels ask.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;

use super::{
    label_index::{EntryLabels, LabelEntry, LabelIndex, UnreadEntry},
    listing::{ListedEntry, RangeListing, UnrecognizedKeys},
    memory_budget::MemoryShare,
    object_reader::{FIRST_READ_BYTES, ObjectReader, ReadObject},
    refusals::ReadTarget,
    shared_horizon::SharedHorizon,
};
use crate::{
    footprint::parsing_bytes, malformed::MalformedInput, mutants, parameters::ParameterSchedule,
    payload::parse_payload, token::Token,
};
use tidemark_store::{Store, StoreError, StoreSecond, StoredObject};

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

/// The labels that the log's entries name, as far as it was read ahead.
#[derive(Debug)]
pub(super) struct LabelLookahead {
    entries: Store,
    objects: ObjectReader,
    unrecognized: Arc<UnrecognizedKeys>,
    horizon: Arc<SharedHorizon>,
    // Held while the log is listed and read, so that each entry is read once, and never while memory is waited for: an older
    // entry that waits here would keep the memory that a younger one needs.
    index: Mutex<LabelIndex>,
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

impl LabelLookahead {
    pub(super) fn new(
        entries: &Store,
        objects: &ObjectReader,
        unrecognized: &Arc<UnrecognizedKeys>,
        horizon: &Arc<SharedHorizon>,
    ) -> Self {
        Self {
            entries: entries.clone(),
            objects: objects.clone(),
            unrecognized: unrecognized.clone(),
            horizon: horizon.clone(),
            index: Mutex::default(),
        }
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
                self.index.lock().await.note_read(entry, labels);
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
        let mut index = self.index.lock().await;
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
        let (horizon, own) = (self.horizon.second(), own.second());
        let Some(start) = index.first_unlisted(horizon, own, from, until) else { return Ok(until) };
        let is_frozen = own < horizon;
        let end = if is_frozen { until.after(LISTED_AHEAD).next() } else { until.next() };
        let mut listing = RangeListing::new(&self.entries, start, end, self.unrecognized.clone()).stream(1).boxed();
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
        let name = ReadTarget::deciding(&key);
        let (read, _) = self.objects.read(&self.entries, name, entry.size, limit, memory).await?;
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
    use super::*;

    #[test]
    fn an_entry_whose_reading_panics_names_no_label() {
        assert!(parse_labels(|| panic!("index out of bounds")).paths.is_empty());
        assert!(parse_labels(|| Err(MalformedInput::new("binary"))).paths.is_empty());
        let labels = || EntryLabels { paths: vec!["labels/r/v1/label.yaml".into()], has_marker: false };
        assert_eq!(parse_labels(|| Ok(labels())).paths, labels().paths);
    }
}
