//! Labels of Datamon's own clients, which have no marker: the versions of `label.yaml`, and which of the entries that name the
//! label each of them belongs to.
//!
//! The versions in time order each go to the latest token not after them that has none yet. Only tokens after an entry's own
//! compete with it, since an earlier one gets a version only where it has one already; and only versions within its bound count.
//! So everything that decides is visible once the entry's second is frozen, and nothing that happens to the label later changes it.

use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt as _;
use parking_lot::Mutex;

use super::{
    listing::ListedEntry,
    log_reader::{FIRST_READ_BYTES, LogReader, ReadObject},
    memory_budget::MemoryShare,
};
use crate::{
    footprint::parsing_bytes,
    mutants,
    parameters::LogParameters,
    payload::{EntryIntent, OperationKind, PayloadFormat, parse_payload},
    token::Token,
};
use tidemark_store::{Store, StoreError, StoreSecond, StoredObject};

/// How many entries are read at once for the labels that they name.
const MAX_CONCURRENT_GETS: usize = 8;
/// How much the labels that entries name may take in memory; the oldest are forgotten first, and read again where needed.
const MAX_NAMES_BYTES: usize = 2 << 20;

/// What is known of an object's versions.
pub(super) struct LabelVersions {
    /// Oldest first, from the entry's second on.
    pub(super) versions: Vec<LabelVersion>,
    /// Whether no version of that time is missing.
    pub(super) is_complete: bool,
}

/// One version of `label.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelVersion {
    /// The store's name of it; `None` for the one object of a store that keeps no versions.
    pub(super) id: Option<String>,
    pub(super) time: StoreSecond,
}

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

/// Which of `versions`, which are complete and in time order, is that of `own`; `later` are the entries of the same label with
/// later tokens, in token order.
pub(super) fn version_of(
    own: LabelEntry,
    later: &[LabelEntry],
    versions: &[StoreSecond],
    tolerance: Duration,
) -> Option<usize> {
    let later = later.iter().filter(|entry| !entry.has_marker);
    let mut without: Vec<LabelEntry> = [own].into_iter().chain(later.copied()).collect();
    for (number, version) in versions.iter().enumerate() {
        if let Some(latest) = without.iter().rposition(|entry| entry.precedes(*version, tolerance))
            && without.remove(latest).token == own.token
        {
            return Some(number);
        }
    }
    None
}

/// Whether a later entry may have written the one version that is known.
pub(super) fn is_overtaken(later: &[LabelEntry], version: StoreSecond, tolerance: Duration) -> bool {
    later.iter().any(|entry| entry.precedes(version, tolerance))
}

/// The labels that entries name, as far as they were read. Clones of a reader share it.
#[derive(Debug, Default)]
pub(super) struct LabelNames(Mutex<KnownNames>);

#[derive(Debug, Default)]
struct KnownNames {
    by_token: BTreeMap<Token, EntryLabels>,
    bytes: usize,
}

/// The labels that one entry names.
#[derive(Clone, Debug, Default)]
struct EntryLabels {
    paths: Vec<Box<str>>,
    has_marker: bool,
}

impl EntryLabels {
    fn of(intent: &EntryIntent) -> Self {
        let labels = intent.ops.iter().filter(|op| op.kind == OperationKind::Label);
        let paths = labels.filter_map(|op| op.descriptor.as_deref()).map(Box::from).collect();
        Self { paths, has_marker: intent.format == PayloadFormat::Intent }
    }

    fn bytes(&self) -> usize {
        size_of::<(Token, Self)>() + self.paths.iter().map(|path| size_of::<Box<str>>() + path.len()).sum::<usize>()
    }

    /// The entry, if it names `path`.
    fn naming(&self, path: &str, listed: &ListedEntry) -> Option<LabelEntry> {
        let names = self.paths.iter().any(|named| **named == *path);
        names.then_some(LabelEntry { token: listed.token, time: listed.time, has_marker: self.has_marker })
    }
}

impl LabelNames {
    /// Notes what the entry `token` names.
    pub(super) fn note(&self, token: Token, intent: Option<&EntryIntent>) {
        self.insert(token, intent.map(EntryLabels::of).unwrap_or_default());
    }

    fn insert(&self, token: Token, labels: EntryLabels) {
        let mut known = self.0.lock();
        known.bytes += labels.bytes();
        if let Some(before) = known.by_token.insert(token, labels) {
            known.bytes -= before.bytes();
        }
        while known.bytes > MAX_NAMES_BYTES
            && let Some((_, oldest)) = known.by_token.pop_first()
        {
            known.bytes -= oldest.bytes();
        }
    }

    fn get(&self, token: Token) -> Option<EntryLabels> {
        self.0.lock().by_token.get(&token).cloned()
    }
}

impl LogReader {
    /// The versions of the label's key that were written from `from` on; `None` where the store has no such object.
    pub(super) async fn label_versions(
        &self,
        store: &Store,
        key: &str,
        from: StoreSecond,
    ) -> Result<Option<LabelVersions>, StoreError> {
        if let Some(all) = store.versions(key, from).await? {
            if all.is_empty() {
                return Ok(None);
            }
            let since: Vec<_> = all.into_iter().filter(|version| version.time >= from).collect();
            // One without a name replaced others of its kind.
            if since.iter().all(|version| version.id.is_some()) {
                let versions = since.into_iter().map(|version| LabelVersion { id: version.id, time: version.time });
                return Ok(Some(LabelVersions { versions: versions.collect(), is_complete: true }));
            }
        }
        let before = self.refusals.reads();
        let attributes = store.get(key, 0).await;
        let time = match self.judged(store, key, before, attributes).await? {
            ReadObject::Absent => return Ok(None),
            ReadObject::Read(object) => object.info.time,
            ReadObject::Refused { info, .. } => info.time,
        };
        let newest = (time >= from).then_some(LabelVersion { id: None, time });
        Ok(Some(LabelVersions { versions: newest.into_iter().collect(), is_complete: false }))
    }

    /// The entries that name the label `path`, with tokens after `own` and not after second `until`, in token order.
    pub(super) async fn later_label_entries(
        &self,
        path: &str,
        own: Token,
        until: StoreSecond,
        parameters: &LogParameters,
        memory: &MemoryShare,
    ) -> Result<Vec<LabelEntry>, StoreError> {
        let listed = self.list(own.second(), until.next());
        let after = listed.try_filter(|listed| std::future::ready(listed.token > own));
        let named = after.map_ok(async |listed| {
            let labels = match self.labels.get(listed.token) {
                Some(known) => known,
                None => self.read_labels(&listed, parameters, memory).await?,
            };
            Ok::<_, StoreError>(labels.naming(path, &listed))
        });
        let entries: Vec<LabelEntry> = named
            .try_buffered(MAX_CONCURRENT_GETS)
            .try_filter_map(|entry| std::future::ready(Ok(entry)))
            .try_collect()
            .await?;
        Ok(mutants::later_entries(entries))
    }

    /// Reads the labels that the entry names; one that cannot be read names none.
    async fn read_labels(
        &self,
        listed: &ListedEntry,
        parameters: &LogParameters,
        memory: &MemoryShare,
    ) -> Result<EntryLabels, StoreError> {
        let (key, limit) = (listed.token.to_string(), parameters.max_entry_size);
        memory.charge(FIRST_READ_BYTES).await;
        let (read, charged) = self.read_charged(&self.log.entries, &key, None, 0, limit, memory).await?;
        let labels = match read {
            ReadObject::Read(StoredObject { body: Some(body), .. }) => {
                let estimate = 2 * parsing_bytes(&body);
                memory.charge(estimate).await;
                let labels = parse_payload(listed.token, &body).as_ref().map(EntryLabels::of).unwrap_or_default();
                memory.release(estimate);
                self.labels.insert(listed.token, labels.clone());
                labels
            }
            _ => EntryLabels::default(),
        };
        memory.release(charged);
        Ok(labels)
    }
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
        let versions: Vec<_> = times.iter().map(|second| StoreSecond::from_unix(1_700_000_000 + second)).collect();
        let one = |own: usize| {
            // What is older than the token is not of the entry.
            let older = versions.iter().filter(|time| **time < entries[own].token.second()).count();
            version_of(entries[own], &entries[own + 1..], &versions[older..], Duration::ZERO).map(|at| at + older)
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
        assert_eq!(version_of(entry(0, 1), &[ours], &[entry(3, 0).time], Duration::ZERO), Some(0));
        assert!(is_overtaken(&[ours], entry(3, 0).time, Duration::ZERO));
    }

    #[test]
    fn what_is_forgotten_is_the_oldest() {
        let names = LabelNames::default();
        let labels = || EntryLabels { paths: vec!["x".repeat(900).into()], has_marker: false };
        for second in 0..5000 {
            names.insert(entry(second, 1).token, labels());
        }
        let known = names.0.lock();
        assert!(known.bytes <= MAX_NAMES_BYTES && known.by_token.len() > 1000);
        assert!(known.by_token.contains_key(&entry(4999, 1).token) && !known.by_token.contains_key(&entry(0, 1).token));
        assert_eq!(known.bytes, known.by_token.values().map(EntryLabels::bytes).sum::<usize>());
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
