//! Which entries of the log name labels, as far as the log was read ahead.
//!
//! It holds the entries that name a label, and of each second how many entries it has. An entry of another kind takes room only
//! while it is listed and not read yet.

use std::{collections::BTreeMap, ops::Range};

use super::listing::ListedEntry;
use crate::{
    parameters::LogParameters,
    payload::{EntryIntent, OperationKind, PayloadFormat},
    token::Token,
};
use tidemark_store::StoreSecond;

/// How much it may take in memory. The oldest seconds are forgotten first, and read again where needed.
const MAX_INDEX_BYTES: usize = 4 << 20;

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

/// The labels that one entry names.
#[derive(Clone, Debug, Default)]
pub(super) struct EntryLabels {
    pub(super) paths: Vec<Box<str>>,
    pub(super) has_marker: bool,
}

impl EntryLabels {
    pub(super) fn of(intent: &EntryIntent) -> Self {
        let labels = intent.ops.iter().filter(|op| op.kind == OperationKind::Label);
        let paths = labels.filter_map(|op| op.descriptor.as_deref()).map(Box::from).collect();
        Self { paths, has_marker: intent.format == PayloadFormat::Intent }
    }

    fn bytes(&self) -> usize {
        size_of::<(Token, ListedEntry, Self)>()
            + self.paths.iter().map(|path| size_of::<Box<str>>() + path.len()).sum::<usize>()
    }

    /// `entry`, of which these are, if it names `path`.
    pub(super) fn naming(&self, entry: &ListedEntry, path: &str) -> Option<LabelEntry> {
        let names = self.paths.iter().any(|named| **named == *path);
        names.then_some(LabelEntry { token: entry.token, time: entry.time, has_marker: self.has_marker })
    }
}

/// The label entries of a log, by second.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    seconds: BTreeMap<StoreSecond, IndexedSecond>,
    bytes: usize,
    /// The horizon since which `listed` holds.
    horizon: StoreSecond,
    /// The seconds that were listed since the horizon was computed: everything that decides about an entry below it was shown.
    listed: Range<StoreSecond>,
}

/// The entries of one second.
#[derive(Debug, Default)]
struct IndexedSecond {
    /// How many it had when it was listed.
    count: usize,
    unread: BTreeMap<Token, UnreadEntry>,
    labels: BTreeMap<Token, (ListedEntry, EntryLabels)>,
}

/// An entry that was listed and not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnreadEntry {
    pub(super) entry: ListedEntry,
    /// Whether its reading was tried.
    pub(super) has_failed: bool,
}

/// What one takes.
const UNREAD_BYTES: usize = size_of::<(Token, UnreadEntry)>();

impl IndexedSecond {
    fn bytes(&self) -> usize {
        size_of::<(StoreSecond, Self)>()
            + self.unread.len() * UNREAD_BYTES
            + self.labels.values().map(|(_, labels)| labels.bytes()).sum::<usize>()
    }
}

impl LabelIndex {
    /// The first of the seconds `from..=until` that has to be listed, so that everything is known that decides about an entry of
    /// second `own` when every second below `horizon` is frozen; `None` if none has to be.
    pub(super) fn first_unlisted(
        &mut self,
        horizon: StoreSecond,
        own: StoreSecond,
        from: StoreSecond,
        until: StoreSecond,
    ) -> Option<StoreSecond> {
        if horizon > self.horizon {
            // What was frozen before has no entries to come.
            let frozen = self.listed.end.min(self.horizon);
            self.listed.end = frozen;
            self.horizon = horizon;
        }
        if own >= self.horizon || !self.listed.contains(&from) {
            return Some(from);
        }
        (until >= self.listed.end).then_some(self.listed.end)
    }

    /// Notes the entries of a second as a listing shows them. Those that were read need not be read again.
    pub(super) fn note_listed(&mut self, second: StoreSecond, entries: Vec<ListedEntry>) {
        let before = self.seconds.remove(&second).unwrap_or_default();
        self.bytes -= if before.count == 0 { 0 } else { before.bytes() };
        let noted = if before.count == entries.len() {
            before
        } else {
            let count = entries.len();
            let unread = entries.into_iter().filter(|entry| !before.labels.contains_key(&entry.token)).map(|entry| {
                let has_failed = before.unread.get(&entry.token).is_some_and(|unread| unread.has_failed);
                (entry.token, UnreadEntry { entry, has_failed })
            });
            IndexedSecond { count, unread: unread.collect(), labels: before.labels }
        };
        self.insert(second, noted);
    }

    /// Notes that the seconds of `listed` were listed in full.
    pub(super) fn note_range(&mut self, listed: Range<StoreSecond>) {
        let continues = self.listed.contains(&listed.start) || self.listed.end == listed.start;
        if continues && !self.listed.is_empty() {
            self.listed.end = self.listed.end.max(listed.end);
        } else if !listed.is_empty() {
            self.listed = listed;
        }
    }

    /// What of the seconds `from..=until` is not read yet, in whole seconds until that are about `most`; and the last second.
    pub(super) fn unread(&self, from: StoreSecond, until: StoreSecond, most: usize) -> (Vec<UnreadEntry>, StoreSecond) {
        let mut unread = Vec::new();
        for (second, entries) in self.seconds.range(from..=until) {
            unread.extend(entries.unread.values());
            if unread.len() >= most {
                return (unread, *second);
            }
        }
        (unread, until)
    }

    /// Notes that the reading of an entry failed.
    pub(super) fn note_failed(&mut self, token: Token) {
        let second = self.seconds.get_mut(&token.second());
        if let Some(unread) = second.and_then(|second| second.unread.get_mut(&token)) {
            unread.has_failed = true;
        }
    }

    /// Notes what an entry names.
    pub(super) fn note_read(&mut self, entry: ListedEntry, labels: EntryLabels) {
        let Some(second) = self.seconds.get_mut(&entry.token.second()) else { return };
        if second.unread.remove(&entry.token).is_some() {
            self.bytes -= UNREAD_BYTES;
        }
        if !labels.paths.is_empty() {
            self.bytes += labels.bytes();
            let before = second.labels.insert(entry.token, (entry, labels));
            self.bytes -= before.map_or(0, |(_, before)| before.bytes());
        }
    }

    /// The entries of the seconds `from..=until` that name `path` and were read, in token order.
    pub(super) fn naming(&self, path: &str, from: StoreSecond, until: StoreSecond) -> Vec<LabelEntry> {
        let entries = self.seconds.range(from..=until).flat_map(|(_, second)| second.labels.values());
        entries.filter_map(|(entry, labels)| labels.naming(entry, path)).collect()
    }

    fn insert(&mut self, second: StoreSecond, entries: IndexedSecond) {
        if entries.count > 0 {
            self.bytes += entries.bytes();
            self.seconds.insert(second, entries);
        }
    }

    /// Forgets the oldest seconds while they take too much. Not before what was listed is read: the oldest may be just that.
    pub(super) fn evict(&mut self) {
        while self.bytes > MAX_INDEX_BYTES
            && let Some((second, oldest)) = self.seconds.pop_first()
        {
            self.bytes -= oldest.bytes();
            self.listed.start = self.listed.start.max(second.next());
        }
        if self.listed.is_empty() {
            self.listed = Range::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> StoreSecond {
        StoreSecond::from_unix(1_700_000_000 + number)
    }

    fn entry(number: u64) -> ListedEntry {
        ListedEntry { token: Token::from_parts(second(number), [1; 16]), time: second(number), size: 1 }
    }

    fn labels(path: &str) -> EntryLabels {
        EntryLabels { paths: vec![path.into()], has_marker: false }
    }

    fn unread(index: &LabelIndex) -> Vec<ListedEntry> {
        index.unread(second(0), second(9), usize::MAX).0.into_iter().map(|unread| unread.entry).collect()
    }

    /// The first second to be listed, for an entry of `own` that needs `from..=until`.
    fn unlisted(index: &mut LabelIndex, horizon: u64, own: u64, from: u64, until: u64) -> Option<u64> {
        let first = index.first_unlisted(second(horizon), second(own), second(from), second(until));
        first.map(|first| first.unix() - 1_700_000_000)
    }

    #[test]
    fn a_range_is_listed_once_for_all_entries_below_a_horizon_and_again_for_the_next() {
        let mut index = LabelIndex::default();
        assert_eq!(unlisted(&mut index, 50, 10, 10, 20), Some(10));
        index.note_range(second(10)..second(70));
        assert_eq!(unlisted(&mut index, 50, 10, 10, 69), None);
        assert_eq!(unlisted(&mut index, 50, 49, 49, 75), Some(70));
        assert_eq!(unlisted(&mut index, 50, 50, 50, 60), Some(50), "it is not sealed");
        assert_eq!(unlisted(&mut index, 50, 9, 9, 20), Some(9), "it is before what was listed");
        index.note_range(second(70)..second(80));
        assert_eq!(unlisted(&mut index, 50, 49, 49, 79), None);
        // What was frozen needs no other look.
        assert_eq!(unlisted(&mut index, 60, 20, 20, 49), None);
        assert_eq!(unlisted(&mut index, 60, 20, 20, 55), Some(50));
    }

    #[test]
    fn only_what_came_to_a_second_is_read_again_and_entries_of_other_kinds_take_no_room() {
        let mut index = LabelIndex::default();
        let at = |random| ListedEntry { token: Token::from_parts(second(1), [random; 16]), ..entry(1) };
        index.note_listed(second(1), vec![at(1), at(2)]);
        let listed = index.bytes;
        index.note_read(at(1), EntryLabels::default());
        assert!(index.bytes < listed);
        index.note_read(at(2), labels("l"));
        index.note_listed(second(1), vec![at(1), at(2)]);
        assert_eq!(unread(&index), []);
        index.note_listed(second(1), vec![at(1), at(2), at(3)]);
        assert_eq!(unread(&index), [at(1), at(3)]);
        index.note_read(at(3), labels("other"));
        let naming = index.naming("l", second(0), second(9));
        assert_eq!(naming.iter().map(|entry| entry.token).collect::<Vec<_>>(), [at(2).token]);
    }

    #[test]
    fn a_step_ends_with_the_second_that_makes_it_long_enough() {
        let mut index = LabelIndex::default();
        let at =
            |number, random| ListedEntry { token: Token::from_parts(second(number), [random; 16]), ..entry(number) };
        for number in 0..5 {
            index.note_listed(second(number), vec![at(number, 1), at(number, 2)]);
        }
        let (some, until) = index.unread(second(1), second(4), 3);
        assert_eq!((some.len(), until), (4, second(2)));
        let (rest, until) = index.unread(until.next(), second(9), 100);
        assert_eq!((rest.len(), until), (4, second(9)));
    }

    #[test]
    fn what_has_failed_is_known_until_it_is_read() {
        let mut index = LabelIndex::default();
        let at = |random| ListedEntry { token: Token::from_parts(second(1), [random; 16]), ..entry(1) };
        index.note_listed(second(1), vec![at(1), at(2)]);
        index.note_failed(at(2).token);
        index.note_listed(second(1), vec![at(1), at(2), at(3)]);
        let failed = |index: &LabelIndex| {
            index.unread(second(0), second(9), 9).0.iter().map(|u| u.has_failed).collect::<Vec<_>>()
        };
        assert_eq!(failed(&index), [false, true, false]);
        index.note_read(at(2), labels("l"));
        assert_eq!(failed(&index), [false, false]);
    }

    #[test]
    fn what_it_takes_is_counted_however_it_came_to_be() {
        let mut index = LabelIndex::default();
        let at = |random| ListedEntry { token: Token::from_parts(second(1), [random; 16]), ..entry(1) };
        for count in [1, 5, 5, 9] {
            index.note_listed(second(1), (0..count).map(at).collect());
            for random in [0, 3, 3, 8] {
                index.note_read(at(random), if random == 8 { EntryLabels::default() } else { labels("some label") });
                assert_eq!(index.bytes, index.seconds.values().map(IndexedSecond::bytes).sum::<usize>());
            }
        }
    }

    #[test]
    fn what_is_forgotten_is_the_oldest_and_is_listed_again() {
        let mut index = LabelIndex::default();
        for number in 0..9000 {
            index.note_listed(second(number), vec![entry(number)]);
            index.note_read(entry(number), labels(&"x".repeat(900)));
        }
        index.note_range(second(0)..second(9000));
        index.evict();
        assert!(index.bytes <= MAX_INDEX_BYTES && index.seconds.len() > 1000);
        assert_eq!(index.bytes, index.seconds.values().map(IndexedSecond::bytes).sum::<usize>());
        assert_eq!(unlisted(&mut index, 9999, 0, 0, 10), Some(0));
        let oldest = *index.seconds.first_key_value().unwrap().0;
        index.horizon = second(9999);
        index.note_range(oldest..second(9000));
        assert_eq!(index.first_unlisted(second(9999), oldest, oldest, second(8999)), None);
    }
}
