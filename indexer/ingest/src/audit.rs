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
    audit_schedule::{AuditSchedule, DueAudit, UnsettledScan},
    batch::{PredecessorMap, PredecessorRecord, RecordBatch},
    engine::{EngineError, IndexLookup, UnsettledOperation, UnsettledQuery},
    entry_stream::EntryReader,
    error::IngestError,
    horizon::SealedHorizon,
    publisher::Publisher,
    record::OperationRecord,
    retry::RetryBackoff,
};

/// Tokens that are compared with the index at once, and aborted operations that are resolved again at once.
const CHUNK: usize = 1000;
/// How long the audit runs before it is the tail's turn.
const TIME_SLICE: Duration = Duration::from_secs(1);
/// Attempts to read an entry. What fails is audited again; the tail does not wait for it.
const AUDIT_ATTEMPTS: u32 = 1;
/// The pause after an audit that failed; it doubles with each further failure in a row.
const FAILURE_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause.
const MAX_FAILURE_PAUSE: Duration = Duration::from_mins(10);
/// How often all unreadable entries are tried again, besides at a take-over.
const UNREADABLE_INTERVAL: Duration = Duration::from_hours(1);

/// Finds what became visible late.
#[derive(Debug)]
pub(crate) struct LogAuditor {
    entries: EntryReader,
    schedule: AuditSchedule,
    /// When unreadable entries were last tried again, whatever their age.
    retried: Option<Instant>,
    backoff: RetryBackoff,
    /// Until when no audit runs, after one that failed.
    paused_until: Option<Instant>,
}

impl LogAuditor {
    pub(crate) fn new(entries: EntryReader, schedule: AuditSchedule) -> Self {
        let backoff = RetryBackoff::between(FAILURE_PAUSE, MAX_FAILURE_PAUSE);
        Self { entries, schedule, retried: None, backoff, paused_until: None }
    }

    /// Runs the audits that are due, for about a time slice; none for a while after one has failed.
    pub(crate) async fn run(&mut self, publisher: &mut Publisher, sealed: &SealedHorizon) -> Result<(), IngestError> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let audited = self.run_due(publisher, sealed).await;
        if audited.is_ok() {
            self.backoff.reset();
            self.paused_until = None;
        } else {
            self.paused_until = Some(Instant::now() + self.backoff.next_pause());
        }
        audited
    }

    /// Whether the last audit failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.paused_until.is_some()
    }

    async fn run_due(&mut self, publisher: &mut Publisher, sealed: &SealedHorizon) -> Result<(), IngestError> {
        let cursor = publisher.cursor();
        let window = sealed.schedule.at(cursor.second()).audit_window;
        let slice_end = Instant::now() + TIME_SLICE;
        if self.retried.is_none_or(|retried| retried.elapsed() >= UNREADABLE_INTERVAL) {
            self.retry_unreadable(publisher, sealed).await?;
            self.retried = Some(Instant::now());
        }
        for DueAudit { level, seconds, written_before } in self.schedule.due(sealed.horizon, cursor, window) {
            let mut scan = if let Some(scan) = self.schedule.resume(level, seconds.start) {
                scan
            } else {
                let reached = self.find_late_entries(publisher, seconds.clone(), slice_end, sealed).await?;
                let written_before = if reached == seconds.end { written_before } else { reached };
                UnsettledScan { seconds: seconds.start..reached, written_before, after: None }
            };
            if self.resolve_unsettled(publisher, &mut scan, slice_end, sealed).await? {
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

    /// Tries to read every entry that the index has as unreadable: new credentials or a new release may have mended it.
    async fn retry_unreadable(&self, publisher: &mut Publisher, sealed: &SealedHorizon) -> Result<(), IngestError> {
        if publisher.manifest().totals.standing().unreadable == 0 {
            return Ok(());
        }
        let end = publisher.cursor().second();
        let seconds = StoreSecond::default()..StoreSecond::KSUID_END.next();
        let outcomes = &[Outcome::Unreadable];
        let mut query = UnsettledQuery { seconds, before: end, outcomes, after: None, limit: CHUNK };
        loop {
            let unreadable = publisher.lookup().await?.unsettled_operations(&query).await?;
            let Some(last) = unreadable.last() else { return Ok(()) };
            query.after = Some(last.token);
            for one in &unreadable {
                // Each by itself: one that is still refused keeps no other from being decided.
                let known = [((one.token, one.op), predecessor(one))].into();
                let tried = self.correct(publisher, entries_of(std::slice::from_ref(one)), &known, sealed).await;
                match tried {
                    Err(failure) if failure.is_retryable() => publisher.discard_unpublished(),
                    other => other?,
                }
            }
        }
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
    async fn resolve_unsettled(
        &self,
        publisher: &mut Publisher,
        scan: &mut UnsettledScan,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<bool, IngestError> {
        loop {
            let query = UnsettledQuery {
                seconds: scan.seconds.start..scan.written_before,
                before: scan.seconds.end,
                // Unreadable ones have a turn of their own: what is still refused must not hold up the others.
                outcomes: &[Outcome::Aborted],
                after: scan.after,
                limit: CHUNK,
            };
            let aborted = publisher.lookup().await?.unsettled_operations(&query).await?;
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
        let mut entries = self.entries.fetch(listing, &sealed.schedule, AUDIT_ATTEMPTS);
        let mut batch = publisher.begin_batch();
        loop {
            let mut fetched = entries.next_chunk().await?;
            if fetched.is_empty() {
                break;
            }
            // The entries keep their shares of the memory until a segment has the records.
            let records = fetched.iter_mut().flat_map(|entry| std::mem::take(&mut entry.records));
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

/// Whether the index does not have what `record` says. What was decided from the entry is never replaced by its being
/// unreadable now.
fn is_correction(record: &OperationRecord, predecessors: &PredecessorMap) -> bool {
    let outcome = record.decision.outcome;
    if predecessors.is_empty() {
        return true;
    }
    match predecessors.get(&(record.token, record.op)) {
        Some(predecessor) => predecessor.outcome != outcome && outcome != Outcome::Unreadable,
        // An unreadable entry has one record, whatever number of operations it turns out to have.
        None => predecessors.get(&(record.token, 0)).is_some_and(|first| first.outcome == Outcome::Unreadable),
    }
}

fn predecessor(unsettled: &UnsettledOperation) -> PredecessorRecord {
    PredecessorRecord { seq: unsettled.seq, outcome: unsettled.outcome, evidence: unsettled.evidence }
}

fn entries_of(aborted: &[UnsettledOperation]) -> Vec<ListedEntry> {
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
