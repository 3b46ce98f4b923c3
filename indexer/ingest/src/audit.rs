//! The audit: lists sealed seconds again, and publishes what it finds as corrections.
//!
//! An entry or a descriptor that became visible only after it was decided breaks the bound that the horizon rests on; it
//! must not be lost all the same. So every second below the cursor is listed again a minute, ten minutes, an hour and six
//! hours after it was sealed, and once more at the end of the audit window that is in force at that second. Tokens without a
//! record are late entries; aborted operations are resolved again. How far the last looks have come is published with the
//! manifest (`audited`), and a process that takes over continues there. What happened above it is kept in memory only: a
//! correction that the index already has is found there, so that a repeated audit adds nothing.
//!
//! Audits and the tail take turns, a slice of time each, so that the audit of a busy log does not delay the tail; aborted
//! operations are resolved about a thousand at a time for the same reason.
//!
//! An unreadable entry may be decided long after others of its time were archived and deleted from the log. So the audit reads with
//! the log's floor: below it a version of a label is no entry's, unless a marker says so (outcome `unknown`).
//!
//! The cost is five LIST requests for every 1 000 entries, about one a minute while the log is idle, and five reads of
//! every aborted operation; a take-over adds one look at what is not audited. Segments without unsettled operations in the
//! seconds that are due are not asked, so that it does not grow with history.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use futures::StreamExt as _;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, Outcome, ParameterSchedule, Token};
use tokio::time::Instant;

use crate::{
    audit_schedule::{AUDITED_STEP, AuditSchedule, DueAudit, LastLooks, UnsettledScan, is_level},
    batch::{PredecessorMap, PredecessorRecord, RecordBatch},
    engine::{EngineError, IndexLookup, UnsettledOperation, UnsettledQuery},
    entry_stream::{EntryReader, EntryStream, listing_of},
    error::IngestError,
    horizon::SealedHorizon,
    publisher::IndexPublisher,
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
/// How often the audit finds out to which second it has come, unless it may have come on by [`AUDITED_STEP`].
const AUDITED_INTERVAL: Duration = Duration::from_mins(1);
/// How often unreadable entries are tried again, besides at a take-over.
const UNREADABLE_INTERVAL: Duration = Duration::from_hours(1);
/// Unreadable entries that are tried again at once: as many as are read at once, since one that fails for good takes 16 s.
const UNREADABLE_CHUNK: usize = 64;
/// How many are tried again in an hour, after all of them at a take-over: what is refused for good adds up.
const MAX_RETRIED_AN_HOUR: usize = 1_000;

/// Finds what became visible late.
#[derive(Debug)]
pub(crate) struct LogAuditor {
    entries: EntryReader,
    schedule: AuditSchedule,
    unreadable: UnreadableTurn,
    /// How far levels have come within their first second, by age.
    listed: BTreeMap<Duration, ListedPart>,
    /// When the second that the audit has come to was last found out, and how far the last looks had come then.
    counted: Option<(Instant, StoreSecond)>,
    backoff: RetryBackoff,
    /// Until when no audit runs, after one that failed.
    paused_until: Option<Instant>,
}

/// The part of a second with more entries than a time slice lists.
#[derive(Clone, Copy, Debug)]
struct ListedPart {
    /// Its last entry.
    last: Token,
    /// The horizon when it was begun.
    listed_at: StoreSecond,
}

/// The turn of the unreadable entries: all of them, whatever their age, are tried again: all at once after a take-over, then at most
/// [`MAX_RETRIED_AN_HOUR`] an hour.
#[derive(Debug, Default)]
struct UnreadableTurn {
    /// When the last turn, or an hour's part of one, ended.
    ended: Option<Instant>,
    /// How far this one has come.
    after: Option<Token>,
    /// How many were tried in this hour.
    tried: usize,
}

impl UnreadableTurn {
    /// Counts `tried` entries, up to `last`. Gives whether the hour's limit is reached.
    fn record(&mut self, tried: usize, last: Token) -> bool {
        self.after = Some(last);
        self.tried += tried;
        if self.ended.is_none() || self.tried < MAX_RETRIED_AN_HOUR {
            return false;
        }
        (self.ended, self.tried) = (Some(Instant::now()), 0);
        true
    }
}

impl LogAuditor {
    pub(crate) fn new(entries: EntryReader, schedule: AuditSchedule) -> Self {
        let backoff = RetryBackoff::between(FAILURE_PAUSE, MAX_FAILURE_PAUSE);
        let (unreadable, listed) = (UnreadableTurn::default(), BTreeMap::new());
        Self { entries, schedule, unreadable, listed, counted: None, backoff, paused_until: None }
    }

    /// Runs the audits that are due, for about a time slice; none for a while after one has failed.
    pub(crate) async fn run(
        &mut self,
        publisher: &mut IndexPublisher,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        self.schedule.seal(sealed.horizon);
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

    async fn run_due(&mut self, publisher: &mut IndexPublisher, sealed: &SealedHorizon) -> Result<(), IngestError> {
        let slice_end = Instant::now() + TIME_SLICE;
        let mut failed = None;
        if self.unreadable.ended.is_none_or(|ended| ended.elapsed() >= UNREADABLE_INTERVAL) {
            let retried = self.retry_unreadable(publisher, slice_end, sealed).await;
            failed = retryable_failure(retried, publisher)?;
        }
        // Each time another age is the first. An object that cannot be read at one age holds up no other, and not the second
        // that the audit has come to.
        for age in self.schedule.ages(&sealed.schedule) {
            let audited = self.run_level(publisher, age, slice_end, sealed).await;
            failed = failed.or(retryable_failure(audited, publisher)?);
            if Instant::now() >= slice_end {
                break;
            }
        }
        self.advance_audited(publisher, &sealed.schedule).await?;
        failed.map_or(Ok(()), Err)
    }

    /// Audits what is due at `age`, until about `slice_end`.
    async fn run_level(
        &mut self,
        publisher: &mut IndexPublisher,
        age: Duration,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        let (horizon, cursor, parameters) = (sealed.horizon, publisher.cursor().second(), &sealed.schedule);
        let due = self.schedule.due(age, horizon, cursor, parameters);
        let Some(DueAudit { seconds, lists, tokens_before }) = due else { return Ok(()) };
        let mut scan = match self.schedule.resume(age, seconds.start) {
            Some(scan) => scan,
            None if lists => {
                let part = self.listed.get(&age).copied().filter(|part| part.last.second() == seconds.start);
                let listed_at = part.map_or(horizon, |part| part.listed_at);
                let after = part.map(|part| part.last);
                match self.find_late_entries(publisher, seconds.clone(), after, slice_end, sealed).await? {
                    ListingEnd::Within(last) => {
                        self.listed.insert(age, ListedPart { last, listed_at });
                        return Ok(());
                    }
                    ListingEnd::Before(reached) => {
                        self.listed.remove(&age);
                        let (seconds, tokens_before) = (seconds.start..reached, tokens_before.min(reached));
                        UnsettledScan { seconds, listed_at: Some(listed_at), tokens_before, after: None }
                    }
                }
            }
            None => UnsettledScan { seconds, listed_at: None, tokens_before, after: None },
        };
        // After an error the seconds are listed again: what is late in those that came meanwhile is found all the same.
        if self.resolve_unsettled(publisher, age, &mut scan, slice_end, sealed).await? {
            self.schedule.finish(age, &scan, parameters);
        } else {
            self.schedule.interrupt(age, scan);
        }
        Ok(())
    }

    /// Finds out below which second every entry had its last look, to be published with the next manifest.
    async fn advance_audited(
        &mut self,
        publisher: &mut IndexPublisher,
        parameters: &ParameterSchedule,
    ) -> Result<(), IngestError> {
        let LastLooks { end, due_from } = self.schedule.last_looks(parameters);
        // During a backfill each batch brings days of the log, all of which had their last look at once.
        let is_recent = |(at, counted): (Instant, StoreSecond)| {
            at.elapsed() < AUDITED_INTERVAL && end.since(counted) < AUDITED_STEP
        };
        if self.counted.is_some_and(is_recent) || end <= self.schedule.audited() {
            return Ok(());
        }
        let waiting = self.first_waiting(publisher, end, due_from, parameters).await?;
        self.schedule.set_audited(waiting.map_or(end, |token| end.min(token.second())));
        publisher.set_audited(self.schedule.audited());
        self.counted = Some((Instant::now(), end));
        Ok(())
    }

    /// The first aborted operation with a token before `end` that waits for its last look, in a second from `due_from` on.
    async fn first_waiting(
        &self,
        publisher: &mut IndexPublisher,
        end: StoreSecond,
        due_from: StoreSecond,
        parameters: &ParameterSchedule,
    ) -> Result<Option<Token>, IngestError> {
        let seconds = due_from..StoreSecond::KSUID_END.next();
        let outcomes = &[Outcome::Aborted];
        let mut query = UnsettledQuery { seconds, before: end, outcomes, after: None, limit: CHUNK };
        loop {
            let aborted = publisher.lookup().await?.unsettled_operations(&query).await?;
            let waits = |one: &&UnsettledOperation| {
                let second = one.token.second();
                self.schedule.awaits_last_look(second, second.max(one.entry_time), parameters)
            };
            match (aborted.iter().find(waits), aborted.last()) {
                (Some(waiting), _) => return Ok(Some(waiting.token)),
                (None, Some(last)) => query.after = Some(last.token),
                (None, None) => return Ok(None),
            }
        }
    }

    /// Tries to read every entry that the index has as unreadable, until about `slice_end`: new credentials or a new release
    /// may have mended it. One that is still refused keeps no other from being decided.
    async fn retry_unreadable(
        &mut self,
        publisher: &mut IndexPublisher,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        let end = publisher.cursor().second();
        while publisher.manifest().totals.standing().unreadable > 0 {
            let query =
                UnsettledQuery { after: self.unreadable.after, ..UnsettledQuery::unreadable(end, UNREADABLE_CHUNK) };
            let unreadable = publisher.lookup().await?.unsettled_operations(&query).await?;
            let Some(last) = unreadable.last().map(|last| last.token) else {
                // The hour before ended with the last one: this one begins with the first.
                if self.unreadable.tried == 0 && self.unreadable.after.take().is_some() {
                    continue;
                }
                break;
            };
            let known = unreadable.iter().map(|one| ((one.token, one.op), predecessor(one))).collect();
            let readable = self.entries.fetch_readable(entries_of(&unreadable), &sealed.schedule);
            self.correct(publisher, readable, &known, sealed).await?;
            if self.unreadable.record(unreadable.len(), last) || Instant::now() >= slice_end {
                return Ok(());
            }
        }
        self.unreadable = UnreadableTurn { ended: Some(Instant::now()), ..UnreadableTurn::default() };
        Ok(())
    }

    /// Publishes the entries of `seconds`, behind `after`, that the index does not know, until about `slice_end` and at least a
    /// chunk.
    async fn find_late_entries(
        &self,
        publisher: &mut IndexPublisher,
        seconds: Range<StoreSecond>,
        after: Option<Token>,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<ListingEnd, IngestError> {
        let listing = match after {
            Some(token) => self.entries.list_after(token, seconds.end),
            None => self.entries.list(seconds.start, seconds.end),
        };
        let mut chunks = listing.ready_chunks(CHUNK);
        while let Some(chunk) = chunks.next().await {
            let listed: Vec<ListedEntry> = chunk.into_iter().collect::<Result<_, StoreError>>()?;
            let last = listed.last().map(|last| last.token);
            let lookup = publisher.lookup().await?;
            let unknown = unknown_entries(listed, &*lookup).await?;
            if !unknown.is_empty() {
                self.correct(publisher, self.fetch(unknown, sealed), &PredecessorMap::new(), sealed).await?;
            }
            if let Some(last) = last.filter(|_| Instant::now() >= slice_end) {
                let reached = last.second();
                // All of the second that is reached is listed again, but of the first one: that may have any number of entries.
                let is_first = reached == seconds.start;
                return Ok(if is_first { ListingEnd::Within(last) } else { ListingEnd::Before(reached) });
            }
        }
        Ok(ListingEnd::Before(seconds.end))
    }

    /// Resolves the aborted operations of `scan` again that are audited at `age`, until about `slice_end` and at least a chunk.
    /// Gives whether all are resolved.
    async fn resolve_unsettled(
        &self,
        publisher: &mut IndexPublisher,
        age: Duration,
        scan: &mut UnsettledScan,
        slice_end: Instant,
        sealed: &SealedHorizon,
    ) -> Result<bool, IngestError> {
        loop {
            let query = UnsettledQuery {
                seconds: scan.seconds.clone(),
                before: scan.tokens_before,
                // Unreadable ones have a turn of their own: what is still refused must not hold up the others.
                outcomes: &[Outcome::Aborted],
                after: scan.after,
                limit: CHUNK,
            };
            let mut aborted = publisher.lookup().await?.unsettled_operations(&query).await?;
            let (found, Some(last)) = (aborted.len(), aborted.last().copied()) else { return Ok(true) };
            aborted.retain(|one| is_level(age, one.token.second(), &sealed.schedule));
            let known = aborted.iter().map(|aborted| ((aborted.token, aborted.op), predecessor(aborted))).collect();
            self.correct(publisher, self.fetch(entries_of(&aborted), sealed), &known, sealed).await?;
            scan.after = Some(last.token);
            if found < CHUNK {
                return Ok(true);
            }
            if Instant::now() >= slice_end {
                return Ok(false);
            }
        }
    }

    fn fetch(&self, listed: Vec<ListedEntry>, sealed: &SealedHorizon) -> EntryStream {
        self.entries.fetch(listing_of(listed), &sealed.schedule, AUDIT_ATTEMPTS)
    }

    /// Publishes what the index does not have of `entries`: everything of an entry without predecessors, and of the others what
    /// is no longer aborted.
    async fn correct(
        &self,
        publisher: &mut IndexPublisher,
        mut entries: EntryStream,
        predecessors: &PredecessorMap,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        let mut batch = publisher.begin_batch();
        loop {
            let mut fetched = entries.next_chunk().await?;
            if fetched.is_empty() {
                break;
            }
            // The entries keep their shares of the memory until a segment has the records.
            let records = fetched.iter_mut().flat_map(|entry| std::mem::take(&mut entry.records));
            let corrections = records.filter(|record| is_correction(record, predecessors));
            let records: Vec<_> = corrections.map(|record| with_predecessor(record, predecessors)).collect();
            supersede_predecessors(&mut batch, &records, predecessors);
            publisher.add(&mut batch, records, &sealed.schedule).await?;
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

/// Where a listing of an audit ended.
enum ListingEnd {
    /// Before this second, which is past the first one.
    Before(StoreSecond),
    /// Within the first second, with this entry.
    Within(Token),
}

/// The error of an audit that is tried again later.
fn retryable_failure(
    audited: Result<(), IngestError>,
    publisher: &mut IndexPublisher,
) -> Result<Option<IngestError>, IngestError> {
    match audited {
        Err(failure) if failure.is_retryable() => {
            publisher.discard_unpublished();
            Ok(Some(failure))
        }
        audited => audited.map(|()| None),
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
        // That a label was moved later says nothing: at its sealing it was seen unmoved.
        Some(predecessor) if predecessor.outcome == Outcome::Aborted && outcome == Outcome::Unknown => false,
        Some(predecessor) => predecessor.outcome != outcome && outcome != Outcome::Unreadable,
        // An unreadable entry has one record, whatever number of operations it turns out to have.
        None => predecessors.get(&(record.token, 0)).is_some_and(|first| first.outcome == Outcome::Unreadable),
    }
}

/// What the record that an unreadable entry had says of those that it turns out to have.
fn with_predecessor(record: OperationRecord, predecessors: &PredecessorMap) -> OperationRecord {
    let first = predecessors.get(&(record.token, 0));
    OperationRecord { was_unreadable: first.is_some_and(|first| first.outcome == Outcome::Unreadable), ..record }
}

fn predecessor(unsettled: &UnsettledOperation) -> PredecessorRecord {
    let UnsettledOperation { seq, outcome, evidence, body, .. } = *unsettled;
    PredecessorRecord { seq, outcome, evidence, body }
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
