//! What a sidecar adds up.

use tidemark_catalog::{RecordCounts, SetDigest};

/// What a sidecar says of the records that it marks as corrected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CorrectedTotals {
    pub(crate) counts: RecordCounts,
    pub(crate) digest: SetDigest,
}

#[cfg(test)]
mod tests {
    use roaring::RoaringTreemap;

    /// A bit a record at most, two bytes a mark where there are few: what the README says that snapshots and verifications hold in memory.
    #[test]
    fn the_marks_of_a_million_records_take_132_kilobytes_at_most() {
        for (every, bytes) in [(1, 132_000), (2, 132_000), (10, 132_000), (100, 21_000), (1_000, 2_500)] {
            let marked: RoaringTreemap = (1..=1_000_000_u64).step_by(every).collect();
            let taken = marked.serialized_size();
            assert!(taken <= bytes, "one mark in {every} records: {taken} bytes");
        }
    }
}
