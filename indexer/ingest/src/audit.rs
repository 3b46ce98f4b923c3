//! The audit: lists sealed seconds again, and publishes what it finds as corrections.
//!
//! An entry or a descriptor that became visible only after it was decided breaks the bound that the horizon rests on; it
//! must not be lost all the same. So every second below the cursor is listed again a minute, ten minutes, an hour and six
//! hours after it was sealed, and once more at the end of the audit window. Tokens without a record are late entries;
//! aborted operations are resolved again. Progress is kept in memory only: a correction that the index already has is
//! found there, so that a repeated audit adds nothing.
//!
//! Audits and the tail take turns, a slice of time each, so that the audit of a busy log does not delay the tail; aborted
//! operations are resolved about a thousand at a time for the same reason.
//!
//! The cost is five LIST requests for every 1 000 entries, about one a minute while the log is idle, and five reads of
//! every aborted operation.

use std::{ops::Range, time::Duration};

use futures::StreamExt as _;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, Outcome};
use tokio::time::Instant;

use crate::{
    audit_schedule::{AbortedScan, AuditSchedule, DueAudit},
    batch::{PredecessorMap, PredecessorRecord, RecordBatch},
    engine::{AbortedOperation, AbortedQuery, EngineError, IndexLookup},
    entry_stream::EntryReader,
    error::IngestError,
    horizon::SealedHorizon,
    publisher::Publisher,
    record::OperationRecord,
};

/// Tokens that are compared with the index at once, and aborted operations that are resolved again at once.
const CHUNK: usize = 1000;
/// How long the audit runs before it is the tail's turn.
const TIME_SLICE: Duration = Duration::from_secs(1);

/// Finds what became visible late.
#[derive(Debug)]
pub(crate) struct LogAuditor {
    entries: EntryReader,
    schedule: AuditSchedule,
}

impl LogAuditor {
    pub(crate) fn new(entries: EntryReader, schedule: AuditSchedule) -> Self {
        Self { entries, schedule }
    }

    /// Runs the audits that are due, for about a time slice.
    pub(crate) async fn run(&mut self, publisher: &mut Publisher, sealed: &SealedHorizon) -> Result<(), IngestError> {
        let cursor = publisher.cursor();
        let window = sealed.schedule.at(cursor.second()).audit_window;
        let slice_end = Instant::now() + TIME_SLICE;
        for DueAudit { level, seconds, written_before } in self.schedule.due(sealed.horizon, cursor, window) {
            let mut scan = if let Some(scan) = self.schedule.resume(level, seconds.start) {
                scan
            } else {
                let reached = self.find_late_entries(publisher, seconds.clone(), slice_end, sealed).await?;
                let written_before = if reached == seconds.end { written_before } else { reached };
                AbortedScan { seconds: seconds.start..reached, written_before, after: None }
            };
            if self.resolve_aborted(publisher, &mut scan, slice_end, sealed).await? {
                self.schedule.finish(level, scan.seconds.end);
            } else {
                self.schedule.interrupt(level, scan);
            }
            if Instant::now() >= slice_end {
                break;
            }
        }
        Ok(())
    }

    /// Publishes the entries of `seconds` that the index does not know, until about `slice_end`. Gives the second that it
    /// reached, which is past the first one.
    async fn find_late_entries(
        &self,
        publisher: &mut Publisher,
        seconds: Range<StoreSecond>,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<StoreSecond, IngestError> {
        let listing = self.entries.list(seconds.start, seconds.end);
        let mut chunks = listing.ready_chunks(CHUNK);
        while let Some(chunk) = chunks.next().await {
            let listed: Vec<ListedEntry> = chunk.into_iter().collect::<Result<_, StoreError>>()?;
            let reached = listed.last().map_or(seconds.start, |last| last.token.second());
            let lookup = publisher.lookup().await?;
            let unknown = unknown_entries(listed, &*lookup).await?;
            if !unknown.is_empty() {
                self.correct(publisher, unknown, &PredecessorMap::new(), sealed).await?;
            }
            // Not within the first second: an audit that ends where it began would make no progress.
            if reached > seconds.start && Instant::now() >= slice_end {
                return Ok(reached);
            }
        }
        Ok(seconds.end)
    }

    /// Resolves the aborted operations of `scan` again, until about `slice_end` and at least a chunk. Gives whether all are
    /// resolved.
    async fn resolve_aborted(
        &self,
        publisher: &mut Publisher,
        scan: &mut AbortedScan,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<bool, IngestError> {
        loop {
            let query = AbortedQuery {
                seconds: scan.seconds.start..scan.written_before,
                before: scan.seconds.end,
                after: scan.after,
                limit: CHUNK,
            };
            let aborted = publisher.lookup().await?.aborted_operations(&query).await?;
            let Some(last) = aborted.last() else { return Ok(true) };
            let known = aborted.iter().map(|aborted| ((aborted.token, aborted.op), predecessor(aborted))).collect();
            self.correct(publisher, entries_of(&aborted), &known, sealed).await?;
            scan.after = Some(last.token);
            if aborted.len() < CHUNK {
                return Ok(true);
            }
            if Instant::now() >= slice_end {
                return Ok(false);
            }
        }
    }

    /// Resolves `listed` and publishes what the index does not have: everything of an entry without predecessors, and
    /// of the others what is no longer aborted.
    async fn correct(
        &self,
        publisher: &mut Publisher,
        listed: Vec<ListedEntry>,
        predecessors: &PredecessorMap,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        let listing = futures::stream::iter(listed.into_iter().map(Ok)).boxed();
        let mut entries = self.entries.fetch(listing, &sealed.schedule);
        let mut batch = publisher.begin_batch();
        loop {
            let fetched = entries.next_chunk().await?;
            if fetched.is_empty() {
                break;
            }
            let records = fetched.into_iter().flat_map(|entry| entry.records);
            let records: Vec<_> = records.filter(|record| is_correction(record, predecessors)).collect();
            supersede_predecessors(&mut batch, &records, predecessors);
            publisher.add(&mut batch, records).await?;
        }
        if batch.len() == 0 {
            return Ok(());
        }
        tracing::warn!(
            corrections = batch.len(),
            "the audit found entries that became visible late; publishing corrections"
        );
        let cursor = publisher.cursor().second();
        publisher.publish(batch, cursor, sealed.horizon).await
    }
}

fn supersede_predecessors(batch: &mut RecordBatch, records: &[OperationRecord], predecessors: &PredecessorMap) {
    for record in records {
        let operation = (record.token, record.op);
        if let Some(predecessor) = predecessors.get(&operation) {
            batch.mark_corrected(operation, predecessor);
        }
    }
}

/// Whether the index does not have what `record` says.
fn is_correction(record: &OperationRecord, predecessors: &PredecessorMap) -> bool {
    predecessors.is_empty()
        || predecessors
            .get(&(record.token, record.op))
            .is_some_and(|predecessor| predecessor.outcome != record.decision.outcome)
}

fn predecessor(aborted: &AbortedOperation) -> PredecessorRecord {
    PredecessorRecord { seq: aborted.seq, outcome: Outcome::Aborted, evidence: aborted.evidence }
}

fn entries_of(aborted: &[AbortedOperation]) -> Vec<ListedEntry> {
    let mut entries: Vec<ListedEntry> =
        aborted.iter().map(|aborted| ListedEntry { token: aborted.token, time: aborted.entry_time, size: 0 }).collect();
    entries.dedup_by_key(|entry| entry.token);
    entries
}

/// The entries among `listed` of which the index has no record.
async fn unknown_entries(listed: Vec<ListedEntry>, lookup: &dyn IndexLookup) -> Result<Vec<ListedEntry>, EngineError> {
    let tokens: Vec<_> = listed.iter().map(|listed| listed.token).collect();
    let recorded = lookup.recorded_outcomes(&tokens).await?;
    let unknown = listed.into_iter().zip(recorded).filter(|(_, records)| records.is_empty());
    Ok(unknown.map(|(listed, _)| listed).collect())
}
