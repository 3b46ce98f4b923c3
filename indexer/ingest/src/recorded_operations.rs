//! The records of an index as it recorded them, read again by seq.

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use tidemark_catalog::{Manifest, SegmentMeta};
use tidemark_store::StoreSecond;

use crate::{
    engine::{EngineError, IndexEngine, RecordStats},
    record::OperationRecord,
    retry::RetryBackoff,
};

/// About how many bytes of stored records are read at once. In memory they take some times as much.
const CHUNK_BYTES: u64 = 2 << 20;
/// The most records that are read at once.
const MAX_CHUNK_RECORDS: u64 = 512;
/// How much larger records are than their share of the segment, which is compressed.
const COMPRESSION: u64 = 4;
/// Attempts to read records from a store that fails: about a minute in all.
const READ_ATTEMPTS: u32 = 8;

/// Reads the records of one manifest by seq, in chunks of bounded size.
///
/// Of each segment that is read from its begin to its end the stats are compared with the manifest, so that what was damaged without
/// a trace is found where it is.
pub(crate) struct RecordedOperations {
    engine: Arc<dyn IndexEngine>,
    segments: Vec<SegmentMeta>,
    seqs: Range<u64>,
    /// The stats of what was read of the present segment; `None` if that did not begin with its first record.
    read: Option<RecordStats>,
}

impl RecordedOperations {
    /// The records of `manifest` from seq `first` on.
    pub(crate) fn new(engine: &Arc<dyn IndexEngine>, manifest: &Manifest, first: u64) -> Self {
        let (engine, segments) = (engine.clone(), manifest.segments.clone());
        Self { engine, segments, seqs: first..manifest.next_seq, read: None }
    }

    /// The same without the segments that have no entry of these `seconds`. They are not read.
    pub(crate) fn of_seconds(mut self, seconds: &RangeInclusive<StoreSecond>) -> Self {
        self.segments
            .retain(|segment| segment.first.second() <= *seconds.end() && *seconds.start() <= segment.last.second());
        self
    }

    /// The next records, by seq; empty after the last one.
    pub(crate) async fn next_chunk(&mut self) -> Result<Vec<OperationRecord>, EngineError> {
        let at = self.segments.partition_point(|segment| segment.seq.end <= self.seqs.start);
        let Some(segment) = self.segments.get(at).cloned() else { return Ok(Vec::new()) };
        let next = self.seqs.start.max(segment.seq.start);
        if next >= self.seqs.end {
            return Ok(Vec::new());
        }
        let end = (next + chunk_records(&segment)).min(segment.seq.end).min(self.seqs.end);
        let records = self.read(&segment, next..end).await?;
        if !records.iter().map(|record| record.seq).eq(next..end) {
            return Err(damaged(
                &segment,
                format!("it does not give the records {next} to {end} that the manifest says it holds"),
            ));
        }
        self.seqs.start = end;
        self.check(&segment, next, &records)?;
        Ok(records)
    }

    async fn read(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        let mut backoff = RetryBackoff::new();
        for _ in 1..READ_ATTEMPTS {
            match self.engine.records(segment, seqs.clone()).await {
                Err(EngineError::Store(error)) => {
                    tracing::warn!(%error, "records of the index cannot be read; retrying");
                    backoff.sleep().await;
                }
                read => return read,
            }
        }
        self.engine.records(segment, seqs).await
    }

    /// Adds what was read of `segment` from seq `first` on, and compares at its end.
    fn check(&mut self, segment: &SegmentMeta, first: u64, records: &[OperationRecord]) -> Result<(), EngineError> {
        if first == segment.seq.start {
            self.read = Some(RecordStats::default());
        }
        let Some(read) = &mut self.read else { return Ok(()) };
        for record in records {
            read.insert(&record.set_element(), record.decision.entry_time);
        }
        if self.seqs.start < segment.seq.end {
            return Ok(());
        }
        let (wanted, found) = (RecordStats::of(segment), self.read.take());
        if found == Some(wanted) {
            return Ok(());
        }
        Err(damaged(segment, format!("its records are {found:?}, the manifest says {wanted:?}")))
    }
}

/// How many records of `segment` are read at once.
fn chunk_records(segment: &SegmentMeta) -> u64 {
    let bytes = (segment.size / segment.documents.max(1)).saturating_mul(COMPRESSION).max(1);
    (CHUNK_BYTES / bytes).clamp(1, MAX_CHUNK_RECORDS)
}

fn damaged(segment: &SegmentMeta, why: String) -> EngineError {
    EngineError::Damaged { key: segment.key.clone(), why }
}
