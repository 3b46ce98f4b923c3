//! Limits on memory and concurrency of an ingest.

use std::time::Duration;

/// Limits on memory and concurrency of one ingest. The defaults keep a backfill below 512 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestOptions {
    /// Entries that are fetched at the same time.
    pub fetches: usize,
    /// Bytes that entries take in memory from before they are read until they are added to a segment: bodies, descriptors,
    /// what is parsed of them, and records. An entry that takes more passes while no other is read. The tail and the audit
    /// have as much each.
    pub entry_memory: u64,
    /// Records that are resolved with one question to the index; the entry that reaches it is not cut.
    pub chunk: usize,
    /// Records after which a batch is published, at the next boundary between two seconds.
    pub batch_records: u64,
    /// Age at which a batch is published, at the next boundary between two seconds.
    pub batch_age: Duration,
    /// Bytes of memory after which a segment is finished; at most two segments are in memory.
    pub segment_memory: usize,
    /// Whether to compact.
    pub compaction: bool,
    /// Whether records have the names of the files of bundles. Those that were written without them stay so.
    pub file_names: bool,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            fetches: 64,
            entry_memory: 32 << 20,
            chunk: 512,
            batch_records: 100_000,
            batch_age: Duration::from_secs(10),
            segment_memory: 64 << 20,
            compaction: true,
            file_names: false,
        }
    }
}
