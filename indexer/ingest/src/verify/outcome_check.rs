//! Outcomes of the index that are decided again from the log. Entries below the log's floor may be gone, and are left out.

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use roaring::RoaringTreemap;
use serde::Serialize;
use tidemark_catalog::{LogCursor, Manifest, RootChain, SegmentMeta};
use tidemark_store::{Entropy, StoreError, error_chain};
use tidemark_wal::{Log, LogReader, MemoryBudget, MemoryShare, Outcome, ParameterSchedule, Token};
use tokio_util::task::AbortOnDropHandle;

use super::{
    entry_search::{EntrySearch, SearchFigures},
    expectation_comparison::{NamedCommits, expectation_fault, named_entries},
    finding::{FindingLog, FindingSeverity, VerifyCheck, message_parts},
    outcome_comparison::{EntryComparison, OutcomeVerdict},
    sample_draw::{ShuffledSeqs, segments_above},
};
use crate::{
    engine::{EngineError, IndexEngine, IndexLookup},
    key_neighbors::KeyNeighbors,
    record::{KeyedOperation, OperationRecord},
    task::join,
};

/// Records that are taken from a segment at once.
const RECORD_CHUNK: u64 = 32;
/// Draws for each record of a sample, at most: where hardly one of a segment lies above the log's floor, a sample is smaller.
const MAX_DRAWS_PER_RECORD: u64 = 20;
/// Draws of a sample, however small it is to be.
const MIN_DRAWS: u64 = 10_000;

/// An entry that the index has is not in the log.
const ENTRY_GONE: [&str; 3] = [
    "an entry that the index has is gone from the log",
    "an index that is built from this log lacks it; this index still finds it",
    "put the object back from the bucket's versions or a copy of the bucket, and let nothing but a clean-up delete entries",
];
const DIFFERS_EFFECT: &str =
    "search and log contradict each other, and an index that is built from this log says something else";
const DIFFERS_REMEDY: &str =
    "find out what changed the object or the record, and rebuild the index if the log is right";

/// Which outcomes are decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeSelection {
    /// So many records of the index, and as many entries of the log, chosen by a seed: the same seed chooses the same of the same index.
    Sample {
        /// How many of each.
        count: u64,
        /// The seed.
        seed: u64,
    },
    /// All of them.
    All,
}

/// How many outcomes were compared, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeFigures {
    /// Operations of the index that were looked for in the log.
    pub operations: u64,
    /// Bytes of their entries.
    pub bytes: u64,
    /// The log says the same.
    pub agree: u64,
    /// What they rested on is gone, or was written again since.
    pub unprovable: u64,
    /// A correction is due, or they cannot be read yet.
    pub pending: u64,
    /// The log says something else, or the entry is gone.
    pub differ: u64,
    /// The log's store failed.
    pub unread: u64,
    /// Operations of entries below the log's floor, which were not looked for. A sample draws none of them.
    pub below_floor: u64,
    /// Entries of the log that were looked for in the index.
    pub entries: u64,
    /// Those that the index lacks.
    pub missing_entries: u64,
}

/// Compares the outcomes of one manifest with the log.
pub(super) struct OutcomeCheck<'a> {
    pub(super) log: &'a Log,
    pub(super) root: &'a RootChain,
    pub(super) engine: &'a dyn IndexEngine,
    pub(super) manifest: &'a Manifest,
    /// Seqs of records that later ones correct.
    pub(super) corrected: &'a RoaringTreemap,
    pub(super) schedule: &'a ParameterSchedule,
    /// Entries that are read at once.
    pub(super) fetches: usize,
    /// Bytes that entries take in memory.
    pub(super) entry_memory: u64,
    pub(super) findings: &'a FindingLog<'a>,
}

/// One check, while it runs.
struct OutcomeRun<'a> {
    check: &'a OutcomeCheck<'a>,
    reader: &'a LogReader,
    memory: MemoryBudget,
    lookup: &'a dyn IndexLookup,
    /// The log's floor at the start.
    floor: LogCursor,
    total: u64,
    figures: OutcomeFigures,
}

/// An entry of the log with the records that the index has of it.
struct EntryOfIndex {
    token: Token,
    /// Those to compare.
    chosen: Vec<OperationRecord>,
    /// For each of them what the index has of its idempotency key.
    keys: Vec<KeyNeighbors>,
    /// All of them that were read.
    recorded: Vec<OperationRecord>,
}

impl OutcomeCheck<'_> {
    pub(super) async fn run(&self, selection: OutcomeSelection) -> Result<OutcomeFigures, EngineError> {
        let reader = LogReader::new(self.log);
        reader.seal(self.manifest.horizon);
        let lookup = self.engine.open(self.manifest).await?;
        let floor = self.floor().await.unwrap_or_default();
        let mut run = OutcomeRun {
            check: self,
            memory: MemoryBudget::new(self.entry_memory),
            lookup: &*lookup,
            reader: &reader,
            floor,
            total: self.manifest.totals.records,
            figures: OutcomeFigures::default(),
        };
        let mut search = EntrySearch {
            log: self.log,
            engine: self.engine,
            manifest: self.manifest,
            schedule: self.schedule,
            fetches: self.fetches,
            findings: self.findings,
            reader: &reader,
            lookup: &*lookup,
            floor,
            figures: SearchFigures::default(),
        };
        match selection {
            OutcomeSelection::All => {
                run.compare_all().await?;
                search.find_all().await?;
            }
            OutcomeSelection::Sample { count, seed } => {
                let entropy = Entropy::seeded(seed);
                run.compare_sample(count, &entropy).await?;
                search.find_sample(count, &entropy).await?;
            }
        }
        let SearchFigures { entries, missing_entries, unread } = search.figures;
        Ok(OutcomeFigures { entries, missing_entries, unread: run.figures.unread + unread, ..run.figures })
    }

    /// The records of a segment by entry, some at once.
    fn entries_of_segment(&self, segment: SegmentMeta) -> impl Stream<Item = Result<Vec<EntryOfIndex>, EngineError>> {
        let start = segment.seq.start;
        stream::try_unfold((segment, start), move |(segment, start)| async move {
            if start >= segment.seq.end {
                return Ok(None);
            }
            let records = self.whole_entries(&segment, start, RECORD_CHUNK).await?;
            let next = start + (records.len() as u64).max(1);
            Ok(Some((entries_of(records, |_| true), (segment, next))))
        })
    }

    // This stream and the next are boxed in functions that name their lifetime: else the compiler does not find that a verification may be
    // a task.
    fn all_entries(&self) -> BoxStream<'_, Result<Vec<EntryOfIndex>, EngineError>> {
        stream::iter(self.manifest.segments.clone())
            .flat_map(|segment| self.entries_of_segment(segment).boxed())
            .boxed()
    }

    /// The entries of the records with these seqs.
    fn entries_with(&self, chosen: &BTreeSet<u64>) -> BoxStream<'_, Result<Vec<EntryOfIndex>, EngineError>> {
        let mut chunks = Vec::new();
        for segment in &self.manifest.segments {
            let seqs: Vec<u64> = chosen.range(segment.seq.clone()).copied().collect();
            chunks.extend(seqs.chunks(self.fetches.max(1)).map(|seqs| (segment.clone(), seqs.to_vec())));
        }
        let read = stream::iter(chunks).then(move |(segment, seqs)| async move {
            let mut entries = Vec::with_capacity(seqs.len());
            for seq in seqs {
                entries.extend(self.entry_with(&segment, seq).await?);
            }
            Ok(entries)
        });
        read.boxed()
    }

    /// `count` records from this seq on, if the segment has as many, and what follows of the last one's entry. Each is decoded once.
    async fn whole_entries(
        &self,
        segment: &SegmentMeta,
        start: u64,
        count: u64,
    ) -> Result<Vec<OperationRecord>, EngineError> {
        let mut end = segment.seq.end.min(start + count);
        while end < segment.seq.end {
            // From the last one on, which says which entry that is.
            let seqs = end - 1..segment.seq.end.min(end + RECORD_CHUNK);
            let places = self.engine.places(segment, seqs).await?;
            let Some((last, more)) = places.split_first() else { break };
            let of_last = more.iter().take_while(|place| place.token == last.token).count();
            end += of_last as u64;
            if of_last < more.len() || more.is_empty() {
                break;
            }
        }
        self.engine.records(segment, start..end).await
    }

    /// The entry of the record with this seq. The operations of an entry have seqs that follow one another.
    async fn entry_with(&self, segment: &SegmentMeta, seq: u64) -> Result<Option<EntryOfIndex>, EngineError> {
        let Some(place) = self.engine.places(segment, seq..seq + 1).await?.pop() else { return Ok(None) };
        let first = seq.saturating_sub(u64::from(place.op)).max(segment.seq.start);
        let mut recorded = self.whole_entries(segment, first, seq + 1 - first).await?;
        recorded.retain(|one| one.token == place.token);
        Ok(entries_of(recorded, |one| one.seq == seq).pop())
    }

    /// The log's floor as it is now: a clean-up may have raised it since. `None` where the root cannot be read, which its own check reports.
    async fn floor(&self) -> Option<LogCursor> {
        let root = self.root.state().await.ok()?;
        Some(root.floor.map(|floor| floor.second).unwrap_or_default())
    }

    /// Compares the chosen operations of an entry with what the log shows, and counts.
    async fn judge(
        &self,
        entry: &EntryOfIndex,
        found: Result<Option<Vec<OperationRecord>>, StoreError>,
        lookup: &dyn IndexLookup,
        figures: &mut OutcomeFigures,
    ) -> Result<(), EngineError> {
        let chosen = entry.chosen.len() as u64;
        let location = self.log.entries.url_of(&entry.token.to_string());
        let report = |severity, parts| self.findings.report(severity, VerifyCheck::Outcomes, location.clone(), parts);
        figures.operations += chosen;
        figures.bytes += entry.recorded.first().map_or(0, |record| record.size);
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                match self.floor().await {
                    Some(floor) if floor.covers(entry.token) => figures.below_floor += chosen,
                    Some(_) => {
                        figures.differ += chosen;
                        let parts = ENTRY_GONE.map(str::to_owned);
                        report(FindingSeverity::Damage, parts);
                    }
                    None => figures.unread += chosen,
                }
                return Ok(());
            }
            Err(error) => {
                figures.unread += chosen;
                report(FindingSeverity::Unverified, message_parts(&error_chain(&error)));
                return Ok(());
            }
        };
        let comparison = EntryComparison {
            recorded: &entry.recorded,
            found: &found,
            audited: self.manifest.audited,
            schedule: self.schedule,
        };
        for (record, neighbors) in entry.chosen.iter().zip(&entry.keys) {
            let verdict = match comparison.verdict(record, *neighbors) {
                OutcomeVerdict::Agrees => {
                    let found = found.iter().find(|found| found.op == record.op);
                    let fault = expectation_fault(record, found, &self.named_commits(record, lookup).await?);
                    fault.map_or(OutcomeVerdict::Agrees, OutcomeVerdict::Differs)
                }
                verdict => verdict,
            };
            match verdict {
                OutcomeVerdict::Agrees => figures.agree += 1,
                OutcomeVerdict::Pending(_) => figures.pending += 1,
                OutcomeVerdict::Unprovable(why) => {
                    figures.unprovable += 1;
                    let what = format!("operation {} cannot be decided again: {why}", record.op);
                    let effect = "the recorded outcome stands, as it was decided once".to_owned();
                    report(FindingSeverity::Notice, [what, effect, "nothing is to be done".to_owned()]);
                }
                OutcomeVerdict::Differs(why) => {
                    figures.differ += 1;
                    let what =
                        format!("operation {} is not what the index says (seq {}): {why}", record.op, record.seq);
                    report(FindingSeverity::Damage, [what, DIFFERS_EFFECT.to_owned(), DIFFERS_REMEDY.to_owned()]);
                }
            }
        }
        Ok(())
    }

    /// The commits that the record's expectation names, as the index has them. Nothing is read of a record without one.
    async fn named_commits(
        &self,
        record: &OperationRecord,
        lookup: &dyn IndexLookup,
    ) -> Result<NamedCommits, EngineError> {
        let mut named = NamedCommits::default();
        let tokens = named_entries(record);
        let Some(expectation) = record.expectation.as_ref().filter(|_| !tokens.is_empty()) else { return Ok(named) };
        for recorded in lookup.recorded_outcomes(&tokens).await?.into_iter().flatten() {
            if recorded.outcome != Outcome::Committed || recorded.corrected {
                continue;
            }
            let segment = self.manifest.segments.iter().find(|segment| segment.seq.contains(&recorded.seq));
            let Some(segment) = segment else { continue };
            let read = self.engine.records(segment, recorded.seq..recorded.seq + 1).await?;
            let commits = read.iter().filter_map(OperationRecord::entity_commit);
            for (_, commit) in commits.filter(|(entity, _)| *entity == expectation.entity) {
                named.has_expected |= expectation.token == Some(commit.token);
                let is_conflict =
                    expectation.conflict.is_some_and(|found| (found.token, found.op) == (commit.token, commit.op));
                named.conflict = named.conflict.or(is_conflict.then_some(commit));
            }
        }
        Ok(named)
    }
}

impl OutcomeRun<'_> {
    async fn compare_all(&mut self) -> Result<(), EngineError> {
        self.compare(self.check.all_entries()).await
    }

    /// Each record above the floor is chosen as likely as any other, but for those that later ones correct.
    async fn compare_sample(&mut self, count: u64, entropy: &Entropy) -> Result<(), EngineError> {
        let chosen = self.draw(count, entropy).await?;
        self.compare(self.check.entries_with(&chosen)).await
    }

    /// The seqs of `count` records, or of fewer if there are no more, or hardly one above the floor.
    async fn draw(&self, count: u64, entropy: &Entropy) -> Result<BTreeSet<u64>, EngineError> {
        let segments = segments_above(self.check.manifest, self.floor);
        let mut chosen = BTreeSet::new();
        // What is drawn below the floor is looked at one by one, and does not count.
        let max_draws = MAX_DRAWS_PER_RECORD.saturating_mul(count).saturating_add(MIN_DRAWS);
        let draws = ShuffledSeqs::of(segments.iter().copied(), entropy);
        for seq in draws.take(usize::try_from(max_draws).unwrap_or(usize::MAX)) {
            if chosen.len() as u64 >= count {
                break;
            }
            let Some(segment) = segments.iter().find(|segment| segment.seq.contains(&seq)) else { continue };
            if !self.check.corrected.contains(seq) && !self.is_below_floor(segment, seq).await? {
                chosen.insert(seq);
            }
        }
        Ok(chosen)
    }

    async fn is_below_floor(&self, segment: &SegmentMeta, seq: u64) -> Result<bool, EngineError> {
        if !self.floor.covers(segment.first) {
            return Ok(false);
        }
        let places = self.check.engine.places(segment, seq..seq + 1).await?;
        Ok(places.first().is_none_or(|place| self.floor.covers(place.token)))
    }

    /// Decides the entries of these chunks again, and compares.
    async fn compare(
        &mut self,
        chunks: BoxStream<'_, Result<Vec<EntryOfIndex>, EngineError>>,
    ) -> Result<(), EngineError> {
        let Self { check, reader, memory, lookup, floor, total, figures } = self;
        let (check, reader, memory, lookup, floor) = (*check, *reader, &*memory, *lookup, *floor);
        let prepared = prepared(chunks, check.corrected, lookup, floor);
        let entries =
            prepared.map_ok(|entries| stream::iter(entries.into_iter().map(Ok::<_, EngineError>))).try_flatten();
        let schedule = Arc::new(check.schedule.clone());
        let read = entries.map_ok(|entry: EntryOfIndex| {
            let task = (!floor.covers(entry.token)).then(|| {
                // In the order of the entries: so the budget serves them.
                let share = memory.open();
                let read = read_entry(reader.clone(), entry.token, schedule.clone(), share);
                // A task of its own: entries are parsed on all cores.
                AbortOnDropHandle::new(tokio::spawn(read))
            });
            async move {
                let found = match task {
                    Some(task) => Some(join(task).await),
                    None => None,
                };
                Ok((entry, found))
            }
        });
        // Without a pause between the chunks: while entries are read, the next records are.
        let mut read = pin!(read.try_buffered(check.fetches.max(1)));
        while let Some((entry, found)) = read.try_next().await? {
            match found {
                Some((found, _share)) => check.judge(&entry, found, lookup, figures).await?,
                None => figures.below_floor += entry.chosen.len() as u64,
            }
            check.findings.progress(VerifyCheck::Outcomes, figures.operations + figures.below_floor, *total);
        }
        Ok(())
    }
}

/// Each chunk as [`prepare`] leaves it.
fn prepared<'a>(
    chunks: BoxStream<'a, Result<Vec<EntryOfIndex>, EngineError>>,
    corrected: &'a RoaringTreemap,
    lookup: &'a dyn IndexLookup,
    floor: LogCursor,
) -> BoxStream<'a, Result<Vec<EntryOfIndex>, EngineError>> {
    chunks.and_then(move |entries| prepare(corrected, lookup, floor, entries)).boxed()
}

/// The entries with something to compare, and what else the index has to say for it.
async fn prepare(
    corrected: &RoaringTreemap,
    lookup: &dyn IndexLookup,
    floor: LogCursor,
    mut entries: Vec<EntryOfIndex>,
) -> Result<Vec<EntryOfIndex>, EngineError> {
    for entry in &mut entries {
        entry.chosen.retain(|record| !corrected.contains(record.seq));
    }
    entries.retain(|entry| !entry.chosen.is_empty());
    let is_read = |entry: &EntryOfIndex| !floor.covers(entry.token);
    let chosen = entries.iter().filter(|entry| is_read(entry)).flat_map(|entry| &entry.chosen);
    let keyed: Vec<KeyedOperation> = chosen.filter_map(OperationRecord::keyed).collect();
    let mut neighbors = lookup.key_neighbors(&keyed).await?.into_iter();
    for entry in entries.iter_mut().filter(|entry| is_read(entry)) {
        let mut of = |record: &OperationRecord| record.idempotency_key.as_ref().and_then(|_| neighbors.next());
        entry.keys = entry.chosen.iter().map(|record| of(record).unwrap_or_default()).collect();
    }
    Ok(entries)
}

/// What the log has of an entry, decided now, with the memory that it takes. `None` where it is not there.
async fn read_entry(
    reader: LogReader,
    token: Token,
    schedule: Arc<ParameterSchedule>,
    share: MemoryShare,
) -> (Result<Option<Vec<OperationRecord>>, StoreError>, MemoryShare) {
    let found = match reader.catch_panic(token, reader.lookup_within(token, &schedule, &share)).await {
        Ok(Some(resolved)) => Ok(Some(OperationRecord::charged(resolved, &share).await)),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    (found, share)
}

/// The entries of records that come by seq. `is_chosen`: those to compare.
fn entries_of(records: Vec<OperationRecord>, is_chosen: impl Fn(&OperationRecord) -> bool) -> Vec<EntryOfIndex> {
    let mut entries: Vec<EntryOfIndex> = Vec::new();
    for record in records {
        if entries.last().is_none_or(|last| last.token != record.token) {
            let (chosen, keys, recorded) = (Vec::new(), Vec::new(), Vec::new());
            entries.push(EntryOfIndex { token: record.token, chosen, keys, recorded });
        }
        let Some(entry) = entries.last_mut() else { continue };
        if is_chosen(&record) {
            entry.chosen.push(record.clone());
        }
        entry.recorded.push(record);
    }
    entries
}
