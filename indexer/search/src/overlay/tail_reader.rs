//! Follows the log beyond the served manifest's cursor: what to list, fetch and read again next.

use std::{
    collections::{BTreeMap, VecDeque},
    future,
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{Stream, StreamExt, stream};
use tidemark_catalog::{Generation, LogCursor};
use tidemark_ingest::OperationRecord;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{
    ListedEntry, Log, LogParameters, LogReader, MemoryBudget, MemoryShare, Outcome, ParameterSchedule, ParameterSource,
    ResolvedEntry, Token,
};
use tokio::time::Instant;

use super::tail_index::TailEntry;
use crate::search_view::{TailListing, UnindexedGap};

/// GETs of entries at once.
const MAX_CONCURRENT_FETCHES: usize = 16;
/// Entries that become visible together, unless memory is short before.
const BATCH_ENTRIES: usize = 500;
/// Records that become visible together; the entry that reaches it is not cut.
const BATCH_RECORDS: usize = 2000;
/// Incomplete entries that are read again in one round.
const MAX_RETRIES: usize = 500;
/// How far behind the newest entry a short listing starts: writers need a moment between a token and its entry.
const SHORT_LISTING_WINDOW: Duration = Duration::from_secs(15);
/// How often the whole range from the cursor is listed.
const FULL_LISTING_INTERVAL: Duration = Duration::from_secs(30);
/// For how long parameters are used before they are read again. They only tell whether an entry is complete.
const PARAMETERS_TTL: Duration = Duration::from_mins(1);
/// A token may be so much later than its entry's store time.
const MAX_TOKEN_LEAD: Duration = Duration::from_mins(1);
/// After so many entries that there is no room for, a listing looks whether the index is far behind and will show them
/// sealed.
const MAX_ENTRIES_BEYOND_ROOM: usize = 100_000;
/// An index whose cursor lies so far before the horizon is far behind: the ingest reads what lies between anyway.
const FAR_BEHIND: Duration = Duration::from_mins(10);
/// How far before the horizon the tail then starts.
const HORIZON_MARGIN: Duration = Duration::from_mins(1);
/// When an incomplete entry is read again.
const RETRY_INTERVALS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(30))
    .without_max_times();

/// Reads the tail of one log; remembers what was listed, and which entries are to be read again.
pub(crate) struct TailReader {
    reader: LogReader,
    parameters: Arc<dyn ParameterSource>,
    schedule: Option<(ParameterSchedule, Instant)>,
    /// When the last full listing began.
    full_listing: Option<Instant>,
    /// Where the last full listing started.
    full_listing_start: StoreSecond,
    /// The newest second that an entry bears and that its store time has reached.
    newest: StoreSecond,
    /// The incomplete entries.
    retries: BTreeMap<Token, EntryRetry>,
    /// The generation whose index is served.
    generation: Option<Generation>,
    /// For what is read and not in the overlay yet.
    budget: MemoryBudget,
}

/// What a listing showed of the tail.
pub(crate) struct ListedTail {
    /// The entries to read, the newest first.
    pub(crate) fresh: Vec<ListedEntry>,
    /// The first second that was listed.
    pub(crate) from: StoreSecond,
    /// How many entries each second from there on has.
    pub(crate) counts: BTreeMap<StoreSecond, u64>,
}

/// An entry that is to be read.
#[derive(Clone, Copy)]
pub(crate) enum TailFetch {
    /// For the first time.
    Listed(ListedEntry),
    /// Again: it was incomplete.
    Again(Token),
}

impl TailFetch {
    fn token(&self) -> Token {
        match self {
            Self::Listed(listed) => listed.token,
            Self::Again(token) => *token,
        }
    }

    /// Reads the entry and charges it to `memory`; `None` for one that is gone. A panic in it is the failure of this entry alone.
    pub(crate) async fn read(
        self,
        reader: &LogReader,
        schedule: &ParameterSchedule,
        memory: MemoryShare,
    ) -> Result<Option<TailEntry>, StoreError> {
        let read = async {
            let resolved = match self {
                Self::Listed(listed) => Some(reader.fetch_within(&listed, schedule, &memory).await?),
                Self::Again(token) => reader.lookup_within(token, schedule, &memory).await?,
            };
            Ok(match resolved {
                Some(resolved) => Some(TailEntry::charged(resolved, memory).await),
                None => None,
            })
        };
        reader.catch_panic(self.token(), read).await
    }
}

/// Entries that become visible together.
#[derive(Default)]
pub(crate) struct TailBatch {
    pub(crate) entries: Vec<TailEntry>,
    records: usize,
}

impl TailBatch {
    pub(crate) fn push(&mut self, entry: TailEntry) {
        self.records += entry.records.len();
        self.entries.push(entry);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_ENTRIES || self.records >= BATCH_RECORDS
    }
}

/// When an incomplete entry is read again.
struct EntryRetry {
    due: Instant,
    intervals: ExponentialBackoff,
}

impl EntryRetry {
    fn new() -> Self {
        let mut retry = Self { due: Instant::now(), intervals: RETRY_INTERVALS.build() };
        retry.schedule();
        retry
    }

    fn schedule(&mut self) {
        self.due = Instant::now() + self.intervals.next().unwrap_or_default();
    }
}

impl TailReader {
    /// The tail of `log`; what it reads takes at most `memory` bytes until it is in the overlay.
    pub(crate) fn new(log: &Log, parameters: Arc<dyn ParameterSource>, memory: u64) -> Self {
        Self {
            // The range has no end: slices of it would mostly be empty.
            reader: LogReader::new(log).with_one_listing(),
            parameters,
            schedule: None,
            full_listing: None,
            full_listing_start: StoreSecond::default(),
            newest: StoreSecond::default(),
            retries: BTreeMap::new(),
            generation: None,
            budget: MemoryBudget::new(memory),
        }
    }

    /// The index of `generation` is served. Of another one than before, the overlay knows nothing yet.
    pub(crate) fn follow(&mut self, generation: &Generation) {
        if self.generation.as_ref() != Some(generation) {
            self.generation = Some(generation.clone());
            self.full_listing = None;
            self.retries.clear();
        }
    }

    /// The memory for what is read and not in the overlay yet.
    pub(crate) fn budget(&self) -> MemoryBudget {
        self.budget.clone()
    }

    /// The reader of the log, for entries that no listing showed yet.
    pub(crate) fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// The parameters of the log, or defaults for a log that has none yet.
    pub(crate) async fn schedule(&mut self) -> ParameterSchedule {
        if let Some((schedule, read)) = &self.schedule
            && read.elapsed() < PARAMETERS_TTL
        {
            return schedule.clone();
        }
        match self.parameters.schedule().await {
            Ok(schedule) => {
                self.schedule = Some((schedule.clone(), Instant::now()));
                schedule
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the log's parameters; using defaults");
                default_schedule()
            }
        }
    }

    /// The parameters of the log as they were read last.
    pub(crate) fn known_schedule(&self) -> Option<ParameterSchedule> {
        self.schedule.as_ref().map(|(schedule, _)| schedule.clone())
    }

    /// Where the tail starts: at the cursor, or near the horizon while the index is far behind. `horizon` is the
    /// published one, a lower bound of the present one.
    fn start(&self, cursor: LogCursor, horizon: StoreSecond) -> StoreSecond {
        let delay = self.schedule.as_ref().map(|(schedule, _)| schedule.newest().parameters.horizon_delay());
        let horizon = delay.map_or(horizon, |delay| horizon.max(self.newest.before(delay)));
        let cursor = cursor.second();
        if horizon.since(cursor) > FAR_BEHIND { cursor.max(horizon.before(HORIZON_MARGIN)) } else { cursor }
    }

    /// The entries that wait for the ingest between the cursor and the start of the tail.
    async fn gap(&self, cursor: LogCursor, start: StoreSecond) -> Result<Option<UnindexedGap>, StoreError> {
        let oldest = self.reader.list(cursor.second(), start).next().await.transpose()?;
        Ok(oldest.map(|oldest| UnindexedGap { oldest: oldest.token.second(), start }))
    }

    /// Lists the tail: the newest entries that `wanted` wants, at most `room`, and how many there are in all.
    pub(crate) async fn list(
        &mut self,
        (cursor, horizon): (LogCursor, StoreSecond),
        listing: &mut TailListing,
        room: usize,
        wanted: impl Fn(&Token) -> bool,
    ) -> Result<ListedTail, StoreError> {
        let begun = Instant::now();
        if self.schedule.is_none() {
            self.schedule().await;
        }
        let start = self.start(cursor, horizon);
        let listed_long_ago = |begun: Instant| begun.elapsed() >= FULL_LISTING_INTERVAL;
        let full = start < self.full_listing_start || self.full_listing.is_none_or(listed_long_ago);
        let from = if full { start } else { self.newest.before(SHORT_LISTING_WINDOW).max(start) };
        let mut entries = self.reader.list(from, StoreSecond::KSUID_END.next());
        let (mut fresh, mut counts, mut beyond) = (VecDeque::new(), BTreeMap::new(), 0_usize);
        let (mut future, mut cut) = (0, false);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.token.second() > entry.time.after(MAX_TOKEN_LEAD) {
                future += 1;
                continue;
            }
            listing.record(entry.time);
            // One writer whose clock is ahead must not move the short listings past the entries of all others.
            self.newest = self.newest.max(entry.token.second().min(entry.time));
            *counts.entry(entry.token.second()).or_default() += 1;
            if !wanted(&entry.token) {
                continue;
            }
            fresh.push_back(entry);
            if fresh.len() > room {
                fresh.pop_front();
                beyond += 1;
                if beyond.is_multiple_of(MAX_ENTRIES_BEYOND_ROOM) && self.start(cursor, horizon) > from {
                    cut = true;
                    break;
                }
            }
        }
        // The listing may have shown that the index is farther behind than was known.
        let start = self.start(cursor, horizon);
        listing.start = start;
        fresh.retain(|entry| entry.token.second() >= start);
        counts = counts.split_off(&start);
        if cut {
            // It has not come near the end of the log yet, and goes on from there.
            fresh.clear();
            counts.clear();
        } else if full {
            (self.full_listing, self.full_listing_start, listing.future) = (Some(begun), start, future);
            listing.gap = self.gap(cursor, start).await?;
        }
        listing.unrecognized_keys = self.reader.unrecognized_keys();
        listing.delay = self.schedule.as_ref().map(|(schedule, _)| schedule.newest().parameters.horizon_delay());
        Ok(ListedTail { fresh: fresh.into_iter().rev().collect(), from, counts })
    }

    /// Reads entries one after the other as memory allows, and gives them in that order; `None` for one that is gone. Ends at
    /// the first one that is not `wanted` any more. What fails is left for a later round.
    pub(crate) fn read<'a>(
        &'a self,
        schedule: &'a ParameterSchedule,
        reads: Vec<TailFetch>,
        wanted: impl Fn(&TailFetch) -> bool + Send + 'a,
    ) -> impl Stream<Item = Result<Option<TailEntry>, StoreError>> + Send + 'a {
        let reader = &self.reader;
        stream::iter(reads)
            .take_while(move |read| future::ready(wanted(read)))
            .then(move |read| async move {
                let memory = match &read {
                    TailFetch::Listed(listed) => reader.admit(listed, schedule, &self.budget).await,
                    TailFetch::Again(_) => self.budget.open(),
                };
                (read, memory)
            })
            .map(move |(read, memory)| read.read(reader, schedule, memory))
            .buffered(MAX_CONCURRENT_FETCHES)
    }

    /// The incomplete entries that are due to be read again. Forgets all that are not `incomplete` any more.
    pub(crate) fn due_retries(&mut self, incomplete: impl Iterator<Item = Token>) -> Vec<Token> {
        let mut before = std::mem::take(&mut self.retries);
        let retry = |token| (token, before.remove(&token).unwrap_or_else(EntryRetry::new));
        self.retries = incomplete.map(retry).collect();
        let now = Instant::now();
        let due = self.retries.iter_mut().filter(|(_, retry)| retry.due <= now).take(MAX_RETRIES);
        let scheduled = due.map(|(token, retry)| {
            retry.schedule();
            *token
        });
        scheduled.collect()
    }
}

impl TailEntry {
    /// What the overlay keeps of an entry, charged to `memory`.
    pub(crate) async fn charged(resolved: ResolvedEntry, memory: MemoryShare) -> Self {
        let (token, complete) = (resolved.token, resolved.ops.iter().all(|op| op.decision.outcome != Outcome::Aborted));
        Self { token, records: OperationRecord::charged(resolved, &memory).await, complete, memory }
    }
}

/// Parameters for a log that has none yet: whether an entry is complete hardly depends on them.
pub(crate) fn default_schedule() -> ParameterSchedule {
    ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_hours(1)))
}

#[cfg(test)]
mod tests {
    use tidemark_store::Store;

    use super::*;

    #[tokio::test]
    async fn tokens_ahead_of_their_store_time_do_not_move_the_quick_window() {
        let log = Log::over(Store::memory(), Vec::new());
        let now = StoreSecond::from_unix(1_900_000_000);
        let created = log.entries.create(&Token::first_of(now).to_string(), "{}".into(), &BTreeMap::default()).await;
        assert!(matches!(created, tidemark_store::Create::Committed));
        let mut entries = LogReader::new(&log).list(StoreSecond::default(), StoreSecond::KSUID_END);
        let time = entries.next().await.unwrap().unwrap().time;
        let ahead = Token::first_of(time.after(Duration::from_secs(50)));
        let created = log.entries.create(&ahead.to_string(), "{}".into(), &BTreeMap::default()).await;
        assert!(matches!(created, tidemark_store::Create::Committed));
        let mut tail = TailReader::new(&log, Arc::new(default_schedule()), 1 << 20);
        let listing = (LogCursor::default(), StoreSecond::default());
        let listed = tail.list(listing, &mut TailListing::default(), 10, |_| true).await.unwrap();
        assert_eq!(listed.fresh.len(), 1);
        assert!(tail.newest < time.after(Duration::from_secs(30)), "{:?}", tail.newest);
    }
}
