//! The audit: looks again at what was sealed, and publishes what it finds as corrections.
//!
//! An entry or a descriptor that became visible only after it was judged breaks the bound that the horizon rests on; it
//! must not be lost all the same. So every second below the cursor is listed again when it was sealed a minute, ten
//! minutes, an hour and six hours ago, and once more at the end of the audit window. Tokens without a record are late
//! entries; aborted operations are resolved again. Nothing of it is remembered beyond the process: a correction that is
//! in the index already is found there, so that looking again adds nothing.
//!
//! The looks take turns with the tail, a slice of time each, so that the audit of a busy log does not delay it; neither
//! do many aborted operations, of which a thousand or so are resolved again at a time.
//!
//! It costs five LIST requests for every 1 000 entries, and about one a minute while the log is idle; and five readings
//! of every aborted operation.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use futures::StreamExt as _;
use tidemark_catalog::Cursor;
use tidemark_store::StoreSecond;
use tidemark_wal::{ListedEntry, Outcome, Token};
use tokio::time::Instant;

use super::{
    batch::{Batch, Predecessor, Predecessors},
    error::IngestError,
    indexer::{Frozen, Indexer},
    tail::{self, Entries},
};
use crate::{
    OperationRecord,
    engine::{AbortedOperation, AbortedQuery, Lookup},
};

/// How long after sealing a second is looked at again; those beyond the audit window fall away, its end comes last.
const AGES: [Duration; 4] =
    [Duration::from_mins(1), Duration::from_mins(10), Duration::from_hours(1), Duration::from_hours(6)];
/// How many tokens are compared with the index at once, and how many aborted operations are resolved again at once.
const CHUNK: usize = 1000;
/// How far an audit may lag behind its time without leaving a gap over a restart.
const SLACK: Duration = Duration::from_hours(1);

/// How long the audit goes on before the tail has its turn.
const SLICE: Duration = Duration::from_secs(1);

/// How far each of the looks has come.
#[derive(Debug)]
pub(crate) struct Audit {
    /// Cursor and horizon when this process took over.
    taken: (StoreSecond, StoreSecond),
    /// The horizon of this process's first look: what it seals itself, it lists at least that late.
    first: Option<StoreSecond>,
    levels: Vec<Level>,
    /// The looks that have listed their seconds and are not through with the aborted operations, by the level's age.
    settling: BTreeMap<Duration, Settling>,
    /// Counts the rounds, so that each level is the first one in its turn.
    turns: usize,
}

/// How far a look has come with the aborted operations of its seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settling {
    seconds: Range<StoreSecond>,
    /// The last entry that was resolved again.
    after: Option<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    age: Duration,
    /// Every second below it was looked at.
    done: StoreSecond,
    /// Seconds that this process sealed itself when they were older than `age`: there is nothing to look for.
    sealed_late: (StoreSecond, StoreSecond),
}

impl Audit {
    /// The audit of a process that took over an index with this horizon and cursor.
    pub(crate) fn after_restart(horizon: StoreSecond, cursor: Cursor) -> Self {
        Self { taken: (cursor.second(), horizon), first: None, levels: Vec::new(), settling: BTreeMap::new(), turns: 0 }
    }

    /// The seconds that are due for a look, each with its level.
    fn due(&mut self, horizon: StoreSecond, cursor: Cursor, window: Duration) -> Vec<(usize, Range<StoreSecond>)> {
        self.adjust(horizon, window);
        let levels = self.levels.iter_mut().enumerate();
        let mut due: Vec<_> = levels.filter_map(|(at, level)| Some((at, level.due(horizon, cursor)?))).collect();
        if !due.is_empty() {
            self.turns += 1;
            let first = self.turns % due.len();
            due.rotate_left(first);
        }
        due
    }

    /// The look of a level from `start` on that was left off among the aborted operations.
    fn left_off(&mut self, at: usize, start: StoreSecond) -> Option<Settling> {
        let left_off = self.settling.remove(&self.levels.get(at)?.age)?;
        (left_off.seconds.start == start).then_some(left_off)
    }

    fn leave_off(&mut self, at: usize, settling: Settling) {
        if let Some(level) = self.levels.get(at) {
            self.settling.insert(level.age, settling);
        }
    }

    fn done(&mut self, at: usize, end: StoreSecond) {
        if let Some(level) = self.levels.get_mut(at) {
            level.done = level.done.max(end);
        }
    }

    /// Makes the levels those of `window`.
    fn adjust(&mut self, horizon: StoreSecond, window: Duration) {
        let first = *self.first.get_or_insert(horizon);
        let ages = AGES.into_iter().filter(|age| *age < window).chain([window]);
        let known = std::mem::take(&mut self.levels);
        self.levels = ages
            .map(|age| {
                let level = known.iter().find(|level| level.age == age);
                level.copied().unwrap_or_else(|| Level::new(age, self.taken, first))
            })
            .collect();
    }
}

impl Level {
    /// A level that starts where a process before this one may have stopped; its first look covers the time for which
    /// none ran.
    fn new(age: Duration, (cursor, horizon): (StoreSecond, StoreSecond), first: StoreSecond) -> Self {
        Self {
            age,
            done: horizon.min(cursor).before(age).before(SLACK.min(age)),
            sealed_late: (cursor, first.before(age)),
        }
    }

    fn due(&mut self, horizon: StoreSecond, cursor: Cursor) -> Option<Range<StoreSecond>> {
        let (from, to) = self.sealed_late;
        let mut end = horizon.before(self.age).min(cursor.second());
        if from < to {
            if self.done < from {
                end = end.min(from);
            } else {
                self.done = self.done.max(to);
            }
        }
        let due = end.since(self.done) >= self.every() || (end == from && end > self.done);
        due.then_some(self.done..end)
    }

    /// How often the level is looked at: a quarter of its age, at least once an hour and at most once a minute.
    fn every(&self) -> Duration {
        (self.age / 4).clamp(Duration::from_mins(1), Duration::from_hours(1))
    }
}

impl Indexer {
    /// Makes the looks that are due.
    pub(super) async fn audit(&mut self) -> Result<(), IngestError> {
        let Some(frozen) = self.frozen.clone() else { return Ok(()) };
        let cursor = self.cursor();
        let window = frozen.schedule.at(cursor.second()).audit_window;
        let until = Instant::now() + SLICE;
        for (level, seconds) in self.audit.due(frozen.horizon, cursor, window) {
            let mut settling = if let Some(settling) = self.audit.left_off(level, seconds.start) {
                settling
            } else {
                let reached = self.find_late_entries(seconds.clone(), until, &frozen).await?;
                Settling { seconds: seconds.start..reached, after: None }
            };
            if self.settle(&mut settling, until, &frozen).await? {
                self.audit.done(level, settling.seconds.end);
            } else {
                self.audit.leave_off(level, settling);
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }

    /// Publishes the entries of `seconds` that the index does not know, for about as long as until `until`. Gives the
    /// second up to which it came, which is past the first one.
    async fn find_late_entries(
        &mut self,
        seconds: Range<StoreSecond>,
        until: Instant,
        frozen: &Frozen,
    ) -> Result<StoreSecond, IngestError> {
        let listing = tail::list(&self.reader, seconds.start, seconds.end, &self.reporter);
        let mut chunks = listing.ready_chunks(CHUNK);
        while let Some(listed) = chunks.next().await {
            let reached = listed.last().map_or(seconds.start, |last| last.token.second());
            let index = self.index().await?;
            let unknown = unknown(listed, &*index).await?;
            if !unknown.is_empty() {
                self.correct(unknown, &Predecessors::new(), frozen).await?;
            }
            if reached > seconds.start && Instant::now() >= until {
                return Ok(reached);
            }
        }
        Ok(seconds.end)
    }

    /// Resolves the aborted operations again whose time, the later of token and store time, lies in the seconds of
    /// `settling`, for about as long as until `until` and at least a step. Gives whether it came to the end.
    async fn settle(&mut self, settling: &mut Settling, until: Instant, frozen: &Frozen) -> Result<bool, IngestError> {
        loop {
            let query = AbortedQuery { seconds: settling.seconds.clone(), after: settling.after, limit: CHUNK };
            let aborted = self.index().await?.aborted_operations(&query).await?;
            let Some(last) = aborted.last() else { return Ok(true) };
            let known = aborted.iter().map(|aborted| ((aborted.token, aborted.op), predecessor(aborted))).collect();
            self.correct(entries_of(&aborted), &known, frozen).await?;
            settling.after = Some(last.token);
            if aborted.len() < CHUNK {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }

    /// Resolves `listed` and publishes what is not in the index yet: everything of an entry without predecessors, and
    /// of the others what is not aborted any more.
    async fn correct(
        &mut self,
        listed: Vec<ListedEntry>,
        predecessors: &Predecessors,
        frozen: &Frozen,
    ) -> Result<(), IngestError> {
        let listing = futures::stream::iter(listed).boxed();
        let mut entries = Entries::fetch(&self.reader, &frozen.schedule, listing, &self.options, &self.reporter);
        let mut batch = self.batch();
        loop {
            let fetched = entries.next(self.options.chunk).await;
            if fetched.is_empty() {
                break;
            }
            let records = fetched.into_iter().flat_map(|entry| entry.records);
            let records = records.filter(|record| is_news(record, predecessors)).collect();
            self.take_corrections(&mut batch, records, predecessors).await?;
        }
        if batch.len() == 0 {
            return Ok(());
        }
        tracing::warn!(
            corrections = batch.len(),
            "found what was not visible when its second was sealed: publishing it"
        );
        let cursor = self.cursor().second();
        self.publish(batch, cursor, frozen.horizon).await
    }

    async fn take_corrections(
        &mut self,
        batch: &mut Batch,
        records: Vec<OperationRecord>,
        predecessors: &Predecessors,
    ) -> Result<(), IngestError> {
        for record in &records {
            let place = (record.token, record.op);
            if let Some(predecessor) = predecessors.get(&place) {
                batch.mark_corrected(place, predecessor);
            }
        }
        let index = self.index().await?;
        batch.take(records, &mut self.resolver, &*index).await
    }
}

/// Whether `record` says something that the index does not.
fn is_news(record: &OperationRecord, predecessors: &Predecessors) -> bool {
    predecessors.is_empty()
        || predecessors
            .get(&(record.token, record.op))
            .is_some_and(|predecessor| predecessor.outcome != record.decision.outcome)
}

fn predecessor(aborted: &AbortedOperation) -> Predecessor {
    Predecessor { seq: aborted.seq, outcome: Outcome::Aborted, evidence: aborted.evidence }
}

fn entries_of(aborted: &[AbortedOperation]) -> Vec<ListedEntry> {
    let mut entries: Vec<ListedEntry> =
        aborted.iter().map(|aborted| ListedEntry { token: aborted.token, time: aborted.entry_time, size: 0 }).collect();
    entries.dedup_by_key(|entry| entry.token);
    entries
}

/// The entries among `listed` of which the index has no record.
async fn unknown(listed: Vec<ListedEntry>, index: &dyn Lookup) -> Result<Vec<ListedEntry>, IngestError> {
    let tokens: Vec<_> = listed.iter().map(|listed| listed.token).collect();
    let decided = index.recorded_outcomes(&tokens).await?;
    let unknown = listed.into_iter().zip(decided).filter(|(_, records)| records.is_empty());
    Ok(unknown.map(|(listed, _)| listed).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_hours(2);

    fn second(unix: u64) -> StoreSecond {
        StoreSecond::from_unix(unix)
    }

    #[test]
    fn a_first_backfill_is_not_listed_once_more() {
        let mut audit = Audit::after_restart(StoreSecond::default(), Cursor::default());
        let now = 1_800_000_000;
        for at in [0, 1_500_000_000, now] {
            let due = audit.due(second(now), Cursor(second(at)), WINDOW);
            assert!(due.is_empty(), "{due:?}");
        }
        let due = audit.due(second(now + 120), Cursor(second(now + 120)), WINDOW);
        assert_eq!(due, [(0, second(now - 60)..second(now + 60))]);
    }

    #[test]
    fn a_restart_looks_at_what_no_process_looked_at() {
        let taken = second(1_700_000_000);
        let mut audit = Audit::after_restart(taken, Cursor(taken));
        let now = second(1_800_000_000);
        let due = audit.due(now, Cursor(taken), WINDOW);
        assert_eq!(due.len(), 4);
        for (level, seconds) in due {
            assert!(seconds.end == taken && seconds.start < taken.before(audit.levels[level].age), "{seconds:?}");
        }
    }

    proptest! {
        /// Whenever the process starts, every second that it seals or that the one before it may not have looked at is
        /// looked at again by every level whose age it had not reached when it was listed, at the latest a step after.
        #[test]
        fn every_level_covers_every_second(
            taken in 1_000_000u64..1_001_000, gap in 0u64..40_000, steps in prop::collection::vec(1u64..4000, 1..60),
        ) {
            let mut audit = Audit::after_restart(second(taken), Cursor(second(taken)));
            let mut looked: Vec<Vec<Range<StoreSecond>>> = vec![Vec::new(); AGES.len() + 1];
            let first = taken + gap;
            let mut horizon = first;
            for step in steps {
                for (level, seconds) in audit.due(second(horizon), Cursor(second(horizon)), WINDOW) {
                    prop_assert!(seconds.start < seconds.end);
                    looked[level].push(seconds.clone());
                    audit.done(level, seconds.end);
                }
                horizon += step;
            }
            for (level, ranges) in audit.levels.iter().zip(&looked) {
                let covered = |at: u64| ranges.iter().any(|range| range.contains(&second(at)));
                let age = level.age.as_secs();
                let last = horizon.saturating_sub(4000 + age + level.every().as_secs());
                let start = taken - age - age.min(3600);
                for at in (start..last).step_by(61).filter(|at| *at < taken || at + age >= first) {
                    prop_assert!(covered(at), "second {} at age {}", at, age);
                }
            }
        }
    }
}
