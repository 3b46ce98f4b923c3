//! Outcomes that are decided again from the log, and entries that the log or the index lacks.
//!
//! Both sides are asked: what the index has is looked for in the log, and what the log has in the index. Entries below the log's floor
//! may be gone, and are left out.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use roaring::RoaringTreemap;
use serde::Serialize;
use tidemark_catalog::{LogCursor, Manifest, RootChain, SegmentMeta};
use tidemark_store::{Entropy, StoreError, StoreSecond, error_chain};
use tidemark_wal::{ListedEntry, Log, LogReader, MemoryBudget, ParameterSchedule, Token};

use super::{
    finding::{FindingLog, FindingSeverity, VerifyCheck, parts_of},
    outcome_comparison::{EntryComparison, OutcomeVerdict},
};
use crate::{
    engine::{EngineError, IndexEngine, IndexLookup},
    record::{OperationRecord, WriterKey},
};

/// Records that are taken from a segment at once.
const RECORD_CHUNK: u64 = 32;
/// Entries of the log that are looked up in the index at once.
const LISTED_CHUNK: usize = 1000;

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
    /// Operations of entries below the log's floor, which were not looked for.
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
    reader: LogReader,
    memory: MemoryBudget,
    lookup: Arc<dyn IndexLookup>,
    /// The log's floor when it was read last.
    floor: LogCursor,
    total: u64,
    figures: OutcomeFigures,
}

/// An entry of the log with the records that the index has of it.
struct EntryOfIndex {
    token: Token,
    /// Those to compare.
    chosen: Vec<OperationRecord>,
    /// For each of them the first operation that the index has as committed with its idempotency key.
    first_commits: Vec<Option<(Token, u32)>>,
    /// All of them that were read.
    recorded: Vec<OperationRecord>,
}

impl OutcomeCheck<'_> {
    pub(super) async fn run(&self, selection: OutcomeSelection) -> Result<OutcomeFigures, EngineError> {
        let reader = LogReader::new(self.log);
        reader.seal(self.manifest.horizon);
        let mut run = OutcomeRun {
            check: self,
            memory: MemoryBudget::new(self.entry_memory),
            lookup: self.engine.open(self.manifest).await?,
            reader,
            floor: LogCursor::default(),
            total: 0,
            figures: OutcomeFigures::default(),
        };
        run.floor = self.floor().await.unwrap_or_default();
        match selection {
            OutcomeSelection::All => {
                run.total = self.manifest.totals.records;
                run.compare_all().await?;
                run.find_all_entries().await?;
            }
            OutcomeSelection::Sample { count, seed } => {
                let entropy = Entropy::seeded(seed);
                run.total = count.min(self.manifest.totals.records);
                run.compare_sample(count, &entropy).await?;
                run.find_sampled_entries(count, &entropy).await?;
            }
        }
        Ok(run.figures)
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
        figures: &mut OutcomeFigures,
    ) {
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
                return;
            }
            Err(error) => {
                figures.unread += chosen;
                report(FindingSeverity::Unverified, parts_of(&error_chain(&error)));
                return;
            }
        };
        let comparison = EntryComparison { recorded: &entry.recorded, found: &found, audited: self.manifest.audited };
        for (record, first_commit) in entry.chosen.iter().zip(&entry.first_commits) {
            match comparison.verdict(record, *first_commit) {
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
    }
}

impl OutcomeRun<'_> {
    async fn compare_all(&mut self) -> Result<(), EngineError> {
        for segment in &self.check.manifest.segments {
            let mut start = segment.seq.start;
            while start < segment.seq.end {
                let records = self.whole_entries(segment, start, RECORD_CHUNK).await?;
                start += (records.len() as u64).max(1);
                self.compare(entries_of(records, |_| true)).await?;
            }
        }
        Ok(())
    }

    /// At least `count` records from this seq on, if the segment has as many, to the end of the last one's entry.
    async fn whole_entries(
        &self,
        segment: &SegmentMeta,
        start: u64,
        count: u64,
    ) -> Result<Vec<OperationRecord>, EngineError> {
        let read = async |start: u64, count: u64| {
            let end = segment.seq.end.min(start + count);
            self.check.engine.records(segment, start..end).await
        };
        let mut records = read(start, count).await?;
        while let Some(last) = records.last().map(|last| last.token) {
            let next = start + records.len() as u64;
            if next >= segment.seq.end {
                break;
            }
            let more = read(next, RECORD_CHUNK).await?;
            let of_last = more.iter().take_while(|record| record.token == last).count();
            let ended = of_last < more.len() || more.is_empty();
            records.extend(more.into_iter().take(of_last));
            if ended {
                break;
            }
        }
        Ok(records)
    }

    /// Each seq of the manifest is chosen as likely as any other, but for those that later ones correct.
    async fn compare_sample(&mut self, count: u64, entropy: &Entropy) -> Result<(), EngineError> {
        let next_seq = self.check.manifest.next_seq;
        let (mut chosen, wanted) = (BTreeSet::new(), self.total);
        // More draws than seqs: of a few, all are drawn.
        for _ in 0..count.saturating_mul(20) {
            if chosen.len() as u64 >= wanted || next_seq <= 1 {
                break;
            }
            chosen.insert(1 + below(entropy, next_seq - 1));
        }
        self.total = chosen.len() as u64;
        for segment in &self.check.manifest.segments {
            let seqs: Vec<u64> = chosen.range(segment.seq.clone()).copied().collect();
            for seqs in seqs.chunks(self.check.fetches.max(1)) {
                let mut entries = Vec::with_capacity(seqs.len());
                for seq in seqs {
                    entries.extend(self.entry_with(segment, *seq).await?);
                }
                self.compare(entries).await?;
            }
        }
        Ok(())
    }

    /// The entry of the record with this seq. The operations of an entry have seqs that follow one another.
    async fn entry_with(&self, segment: &SegmentMeta, seq: u64) -> Result<Vec<EntryOfIndex>, EngineError> {
        let Some(record) = self.check.engine.records(segment, seq..seq + 1).await?.pop() else { return Ok(Vec::new()) };
        let first = seq.saturating_sub(u64::from(record.op)).max(segment.seq.start);
        let mut recorded = self.whole_entries(segment, first, seq + 1 - first).await?;
        recorded.retain(|one| one.token == record.token);
        Ok(entries_of(recorded, |one| one.seq == seq))
    }

    /// Decides these entries again, and compares.
    async fn compare(&mut self, entries: Vec<EntryOfIndex>) -> Result<(), EngineError> {
        let (check, floor) = (self.check, self.floor);
        let mut wanted = Vec::with_capacity(entries.len());
        for mut entry in entries {
            entry.chosen.retain(|record| !check.corrected.contains(record.seq));
            if floor.covers(entry.token) {
                self.figures.below_floor += entry.chosen.len() as u64;
            } else if !entry.chosen.is_empty() {
                wanted.push(entry);
            }
        }
        let chosen = || wanted.iter().flat_map(|entry: &EntryOfIndex| &entry.chosen);
        let keys: Vec<WriterKey> = chosen().filter_map(OperationRecord::writer_key).collect();
        let mut first_commits = self.lookup.first_commits(&keys).await?.into_iter();
        for entry in &mut wanted {
            let first_commit =
                |record: &OperationRecord| record.writer_key().and_then(|_| first_commits.next().flatten());
            entry.first_commits = entry.chosen.iter().map(first_commit).collect();
        }
        let (reader, memory) = (&self.reader, &self.memory);
        let read = stream::iter(wanted).map(|entry| async move {
            let share = memory.open();
            let found =
                reader.catch_panic(entry.token, reader.lookup_within(entry.token, check.schedule, &share)).await;
            let found = match found {
                Ok(Some(resolved)) => Ok(Some(OperationRecord::charged(resolved, &share).await)),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            (entry, found, share)
        });
        let mut read = std::pin::pin!(read.buffered(check.fetches.max(1)));
        while let Some((entry, found, _share)) = read.next().await {
            check.judge(&entry, found, &mut self.figures).await;
        }
        check.findings.progress(VerifyCheck::Outcomes, self.figures.operations + self.figures.below_floor, self.total);
        Ok(())
    }

    async fn find_all_entries(&mut self) -> Result<(), EngineError> {
        let (from, to) = (self.floor.second(), self.check.manifest.cursor.second());
        let mut listed = self.reader.list(from, to).ready_chunks(LISTED_CHUNK);
        while let Some(chunk) = listed.next().await {
            let chunk: Result<Vec<_>, StoreError> = chunk.into_iter().collect();
            match chunk {
                Ok(chunk) => self.find(&chunk).await?,
                Err(error) => {
                    self.report_unread(self.check.log.entries.url().as_str(), &error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Entries that follow positions in the log's seconds, each of which is chosen as likely as any other.
    async fn find_sampled_entries(&mut self, count: u64, entropy: &Entropy) -> Result<(), EngineError> {
        let (reader, to) = (self.reader.clone().with_one_listing(), self.check.manifest.cursor.second());
        let first = match reader.list(self.floor.second(), to).try_next().await {
            Ok(first) => first,
            Err(error) => {
                self.report_unread(self.check.log.entries.url().as_str(), &error);
                return Ok(());
            }
        };
        let Some(first) = first else { return Ok(()) };
        let span = to.since(first.token.second()).as_secs().max(1);
        let positions: Vec<Token> = (0..count)
            .map(|_| {
                let second = first.token.second().unix() + below(entropy, span);
                Token::from_parts(StoreSecond::from_unix(second), entropy.bytes())
            })
            .collect();
        for positions in positions.chunks(LISTED_CHUNK) {
            let next = |position: Token| {
                let mut listing = reader.list_after(position, to);
                async move { listing.try_next().await }
            };
            let found = stream::iter(positions.iter().copied().map(next)).buffered(self.check.fetches.max(1));
            match found.try_collect::<Vec<_>>().await {
                Ok(found) => {
                    let mut found: Vec<_> = found.into_iter().flatten().collect();
                    found.sort_by_key(|listed| listed.token);
                    found.dedup_by_key(|listed| listed.token);
                    self.find(&found).await?;
                }
                Err(error) => {
                    self.report_unread(self.check.log.entries.url().as_str(), &error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks in the index for entries of the log.
    async fn find(&mut self, listed: &[ListedEntry]) -> Result<(), EngineError> {
        let tokens: Vec<_> = listed.iter().map(|listed| listed.token).collect();
        let recorded = self.lookup.recorded_outcomes(&tokens).await?;
        self.figures.entries += listed.len() as u64;
        for (listed, _) in listed.iter().zip(recorded).filter(|(_, recorded)| recorded.is_empty()) {
            self.report_unknown(listed);
        }
        self.check.findings.progress(VerifyCheck::Log, self.figures.entries, 0);
        Ok(())
    }

    /// The index has no record of an entry of the log.
    fn report_unknown(&mut self, listed: &ListedEntry) {
        let ListedEntry { token, time, .. } = *listed;
        let parameters = self.check.schedule.at(token.second());
        let window = parameters.audit_window.max(parameters.commit_bound() + Duration::from_secs(1));
        let (severity, effect, remedy) = if time.since(token.second()) > window {
            // Whoever decides it by the rule makes it expired.
            (
                FindingSeverity::Notice,
                "it came after the audit window, so that no search finds it",
                "nothing is to be done",
            )
        } else if token.second() >= self.check.manifest.audited {
            (FindingSeverity::Notice, "no search finds it yet", "wait for the audit, which publishes it")
        } else {
            self.figures.missing_entries += 1;
            (FindingSeverity::Damage, "no search finds it", "rebuild the index from the log")
        };
        let what = "an entry of the log is not in the index";
        self.check.findings.report(
            severity,
            VerifyCheck::Log,
            self.check.log.entries.url_of(&token.to_string()),
            [what, effect, remedy].map(str::to_owned),
        );
    }

    fn report_unread(&mut self, location: &str, error: &StoreError) {
        self.figures.unread += 1;
        let parts = parts_of(&error_chain(error));
        self.check.findings.report(FindingSeverity::Unverified, VerifyCheck::Log, location, parts);
    }
}

/// A number below `end`, which is above 0: each as likely as any other, but for less than one part in a billion.
fn below(entropy: &Entropy, end: u64) -> u64 {
    let wide = u128::from(u64::from_be_bytes(entropy.bytes())) * u128::from(end);
    u64::try_from(wide >> 64).unwrap_or(0)
}

/// The entries of records that come by seq. `is_chosen`: those to compare.
fn entries_of(records: Vec<OperationRecord>, is_chosen: impl Fn(&OperationRecord) -> bool) -> Vec<EntryOfIndex> {
    let mut entries: Vec<EntryOfIndex> = Vec::new();
    for record in records {
        if entries.last().is_none_or(|last| last.token != record.token) {
            let (chosen, first_commits, recorded) = (Vec::new(), Vec::new(), Vec::new());
            entries.push(EntryOfIndex { token: record.token, chosen, first_commits, recorded });
        }
        let Some(entry) = entries.last_mut() else { continue };
        if is_chosen(&record) {
            entry.chosen.push(record.clone());
        }
        entry.recorded.push(record);
    }
    entries
}
