//! Keeps a batch at whole seconds, so that it can be published when what follows it cannot be read.
//!
//! The cursor counts whole seconds. The entries of the newest second are held back until a later entry shows that the second
//! is complete. A second with more records than are held goes into the batch as it comes; until it is complete, the batch
//! cannot be published.

use tidemark_store::StoreSecond;

use crate::entry_stream::FetchedEntry;

/// Most records that are held back.
const MAX_HELD_RECORDS: usize = 1000;
/// Most bytes of memory that these take.
const MAX_HELD_BYTES: u64 = 8 << 20;

/// The entries of the newest second that a stream has delivered.
#[derive(Default)]
pub(crate) struct WholeSeconds {
    held: Vec<FetchedEntry>,
    /// The second whose entries are too many to be held back.
    passing: Option<StoreSecond>,
}

impl WholeSeconds {
    /// Takes the next entries of the stream; gives those that may be added to the batch.
    pub(crate) fn push(&mut self, fetched: Vec<FetchedEntry>) -> Vec<FetchedEntry> {
        let mut ready = std::mem::take(&mut self.held);
        ready.extend(fetched);
        let Some(newest) = ready.last().map(|last| last.second) else { return ready };
        if self.passing == Some(newest) {
            return ready;
        }
        self.passing = None;
        let mut held = ready.split_off(ready.partition_point(|entry| entry.second < newest));
        let records: usize = held.iter().map(|entry| entry.records.len()).sum();
        if records > MAX_HELD_RECORDS || held.iter().map(|entry| entry.bytes).sum::<u64>() > MAX_HELD_BYTES {
            self.passing = Some(newest);
            ready.append(&mut held);
        }
        for entry in &mut held {
            // What is held back is bounded here; a later entry may need all of the memory for entries.
            entry.release_memory();
        }
        self.held = held;
        ready
    }

    /// The stream has ended: the newest second is complete.
    pub(crate) fn finish(&mut self) -> Vec<FetchedEntry> {
        self.passing = None;
        std::mem::take(&mut self.held)
    }

    /// Whether the batch ends between two seconds.
    pub(crate) fn batch_is_whole(&self) -> bool {
        self.passing.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{OperationRecord, tests::resolved};

    /// Entries of 100 records each.
    fn entries(seconds: &[u64], bytes: u64) -> Vec<FetchedEntry> {
        let body = format!("{{\"tidemark\":1,\"ops\":[{}{{}}]}}", "{},".repeat(99));
        let records = OperationRecord::from_resolved(resolved(body.as_bytes()));
        let entry = |second: &u64| FetchedEntry::of_second(StoreSecond::from_unix(*second), records.clone(), bytes);
        seconds.iter().map(entry).collect()
    }

    fn seconds(entries: &[FetchedEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.second.unix()).collect()
    }

    #[test]
    fn the_newest_second_is_held_until_a_later_one_comes() {
        let mut whole = WholeSeconds::default();
        assert_eq!(seconds(&whole.push(entries(&[1, 1, 2], 1))), [1, 1]);
        assert_eq!(seconds(&whole.push(entries(&[2, 2], 1))), [0; 0]);
        assert_eq!(seconds(&whole.push(entries(&[3], 1))), [2, 2, 2]);
        assert!(whole.batch_is_whole());
        assert_eq!(seconds(&whole.finish()), [3]);
    }

    #[test]
    fn a_second_with_more_than_is_held_passes_and_makes_the_batch_partial() {
        for (count, size) in [(MAX_HELD_RECORDS / 100 + 1, 1), (3, MAX_HELD_BYTES / 2)] {
            let mut whole = WholeSeconds::default();
            assert_eq!(whole.push(entries(&vec![7; count], size)).len(), count);
            assert!(!whole.batch_is_whole());
            assert_eq!(seconds(&whole.push(entries(&[7], size))), [7]);
            assert!(!whole.batch_is_whole());
            assert_eq!(seconds(&whole.push(entries(&[7, 8], size))), [7]);
            assert!(whole.batch_is_whole());
            assert_eq!(seconds(&whole.finish()), [8]);
        }
    }
}
