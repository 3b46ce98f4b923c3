//! Follows the log beyond the served manifest's cursor: what to list, fetch and read again next.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{StreamExt, stream};
use tidemark_catalog::LogCursor;
use tidemark_ingest::OperationRecord;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{
    ListedEntry, Log, LogParameters, LogReader, Outcome, ParameterSchedule, ParameterSource, ReaderLimits,
    ResolvedEntry, Token,
};
use tokio::time::Instant;

use super::overlay_index::TailEntry;
use crate::search_view::{TailListing, UnindexedGap};

/// GETs of entries at once.
const MAX_CONCURRENT_FETCHES: usize = 16;
/// Most entries that become visible together.
const MAX_BATCH_ENTRIES: usize = 500;
/// Most bytes of entries that are read for that, by their listed sizes.
const MAX_BATCH_BYTES: u64 = 16 << 20;
/// How far behind the newest entry a short listing starts: writers need a moment between a token and its entry.
const SHORT_LISTING_WINDOW: Duration = Duration::from_secs(15);
/// How often the whole range from the cursor is listed.
const FULL_LISTING_INTERVAL: Duration = Duration::from_secs(30);
/// For how long parameters are used before they are read again. They only tell whether an entry is complete.
const PARAMETERS_TTL: Duration = Duration::from_mins(1);
/// A token may be so much later than its entry's store time.
const MAX_TOKEN_LEAD: Duration = Duration::from_mins(1);
/// A listing ends after so many entries that there is no room for: the index is far behind, and will show them sealed.
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
pub(crate) struct LogTail {
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

impl LogTail {
    pub(crate) fn new(log: &Log, parameters: Arc<dyn ParameterSource>, limits: ReaderLimits) -> Self {
        // The range has no end: slices of it would mostly be empty.
        let limits = ReaderLimits { listings: 1, ..limits };
        Self {
            reader: LogReader::new(log, limits),
            parameters,
            schedule: None,
            full_listing: None,
            full_listing_start: StoreSecond::default(),
            newest: StoreSecond::default(),
            retries: BTreeMap::new(),
        }
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

    /// The entries of the tail that `known` does not know, oldest first: as many as there is `room` for, and the tokens of
    /// those beyond.
    pub(crate) async fn list(
        &mut self,
        (cursor, horizon): (LogCursor, StoreSecond),
        listing: &mut TailListing,
        room: usize,
        known: impl Fn(&Token) -> bool,
    ) -> Result<(Vec<ListedEntry>, Vec<Token>), StoreError> {
        let begun = Instant::now();
        if self.schedule.is_none() {
            self.schedule().await;
        }
        let start = self.start(cursor, horizon);
        let listed_long_ago = |begun: Instant| begun.elapsed() >= FULL_LISTING_INTERVAL;
        let full = start < self.full_listing_start || self.full_listing.is_none_or(listed_long_ago);
        let from = if full { start } else { self.newest.before(SHORT_LISTING_WINDOW).max(start) };
        let mut entries = self.reader.list(from, StoreSecond::KSUID_END.next());
        let (mut fresh, mut beyond, mut future, mut cut) = (Vec::new(), Vec::new(), 0, false);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.token.second() > entry.time.after(MAX_TOKEN_LEAD) {
                future += 1;
                continue;
            }
            listing.record(entry.time);
            // One writer whose clock is ahead must not move the short listings past the entries of all others.
            self.newest = self.newest.max(entry.token.second().min(entry.time));
            if known(&entry.token) {
                continue;
            }
            if fresh.len() < room {
                fresh.push(entry);
            } else {
                beyond.push(entry.token);
            }
            if beyond.len() >= MAX_ENTRIES_BEYOND_ROOM {
                cut = true;
                break;
            }
        }
        // The listing may have shown that the index is farther behind than was known.
        let start = self.start(cursor, horizon);
        listing.start = start;
        fresh.retain(|entry| entry.token.second() >= start);
        beyond.retain(|token| token.second() >= start);
        if cut && start > from {
            // It has not come near the end of the log yet, and goes on from there.
            fresh.clear();
            beyond.clear();
        } else if full {
            (self.full_listing, self.full_listing_start, listing.future) = (Some(begun), start, future);
            listing.gap = self.gap(cursor, start).await?;
        }
        listing.unrecognized_keys = self.reader.unrecognized_keys();
        listing.delay = self.schedule.as_ref().map(|(schedule, _)| schedule.newest().parameters.horizon_delay());
        Ok((fresh, beyond))
    }

    /// Reads entries; one that fails is left for a later round. Returns the last failure too.
    pub(crate) async fn fetch(&mut self, entries: &[ListedEntry]) -> (Vec<TailEntry>, Option<StoreError>) {
        let schedule = self.schedule().await;
        let (reader, schedule) = (&self.reader, &schedule);
        let results: Vec<_> = stream::iter(entries.to_vec())
            .map(|entry| async move { reader.fetch(&entry, schedule).await.map(|resolved| tail_entry(&resolved)) })
            .buffered(MAX_CONCURRENT_FETCHES)
            .collect()
            .await;
        let (mut fresh, mut failure) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(read) => fresh.push(read),
                Err(error) => failure = Some(error),
            }
        }
        (fresh, failure)
    }

    /// The incomplete entries that are due to be read again. Forgets all that are not `incomplete` any more.
    pub(crate) fn due_retries(&mut self, incomplete: impl Iterator<Item = Token>) -> Vec<Token> {
        let mut before = std::mem::take(&mut self.retries);
        let retry = |token| (token, before.remove(&token).unwrap_or_else(EntryRetry::new));
        self.retries = incomplete.map(retry).collect();
        let now = Instant::now();
        let due = self.retries.iter().filter(|(_, retry)| retry.due <= now);
        due.map(|(token, _)| *token).take(MAX_BATCH_ENTRIES).collect()
    }

    /// Reads entries again. What fails or is gone is tried again later.
    pub(crate) async fn fetch_again(&mut self, tokens: &[Token]) -> (Vec<TailEntry>, Option<StoreError>) {
        let schedule = self.schedule().await;
        let (reader, schedule) = (&self.reader, &schedule);
        let results: Vec<_> = stream::iter(tokens.to_vec())
            .map(|token| async move { Ok(reader.lookup(token, schedule).await?.map(|resolved| tail_entry(&resolved))) })
            .buffered(MAX_CONCURRENT_FETCHES)
            .collect()
            .await;
        let (mut fresh, mut failure) = (Vec::new(), None);
        for (token, result) in tokens.iter().zip(results) {
            match result {
                Ok(Some(read)) => fresh.push(read),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
            if let Some(retry) = self.retries.get_mut(token) {
                retry.schedule();
            }
        }
        (fresh, failure)
    }
}

/// Entries in the portions that are read and become visible together.
pub(crate) fn batches(entries: &[ListedEntry]) -> impl Iterator<Item = &[ListedEntry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut bytes = 0u64;
        let fitting = rest.iter().take(MAX_BATCH_ENTRIES).take_while(|entry| {
            bytes = bytes.saturating_add(entry.size);
            bytes <= MAX_BATCH_BYTES
        });
        let (batch, left) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = left;
        (!batch.is_empty()).then_some(batch)
    })
}

/// What the overlay keeps of an entry.
pub(crate) fn tail_entry(resolved: &ResolvedEntry) -> TailEntry {
    let complete = resolved.ops.iter().all(|op| op.decision.outcome != Outcome::Aborted);
    TailEntry { token: resolved.token, records: OperationRecord::from_resolved(resolved), complete }
}

/// Parameters for a log that has none yet: whether an entry is complete hardly depends on them.
pub(crate) fn default_schedule() -> ParameterSchedule {
    ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_hours(1)))
}

#[cfg(test)]
mod tests {
    use tidemark_store::Store;

    use super::*;
    use crate::segment::testing::{BEGIN, token};

    fn entry(size: u64) -> ListedEntry {
        ListedEntry { token: token(1, 1), time: StoreSecond::from_unix(BEGIN), size }
    }

    #[test]
    fn entries_are_read_in_portions_of_bounded_size() {
        let sizes = |entries: &[ListedEntry]| batches(entries).map(<[ListedEntry]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        assert_eq!(sizes(&vec![entry(10); 1200]), [500, 500, 200]);
        assert_eq!(sizes(&[entry(6 << 20); 5]), [2, 2, 1]);
        assert_eq!(sizes(&[entry(u64::MAX), entry(1)]), [1, 1]);
    }

    #[tokio::test]
    async fn tokens_ahead_of_their_store_time_do_not_move_the_quick_window() {
        let log = Log::over(Store::memory(), Vec::new());
        let now = StoreSecond::from_unix(1_900_000_000);
        let created = log.entries.create(&Token::first_of(now).to_string(), "{}".into(), &BTreeMap::default()).await;
        assert!(matches!(created, tidemark_store::Create::Committed));
        let mut entries =
            LogReader::new(&log, ReaderLimits::default()).list(StoreSecond::default(), StoreSecond::KSUID_END);
        let time = entries.next().await.unwrap().unwrap().time;
        let ahead = Token::first_of(time.after(Duration::from_secs(50)));
        let created = log.entries.create(&ahead.to_string(), "{}".into(), &BTreeMap::default()).await;
        assert!(matches!(created, tidemark_store::Create::Committed));
        let mut tail = LogTail::new(&log, Arc::new(default_schedule()), ReaderLimits::default());
        let listing = (LogCursor::default(), StoreSecond::default());
        let (fresh, _) = tail.list(listing, &mut TailListing::default(), 10, |_| false).await.unwrap();
        assert_eq!(fresh.len(), 1);
        assert!(tail.newest < time.after(Duration::from_secs(30)), "{:?}", tail.newest);
    }
}
