//! Follows the log beyond the served manifest's cursor and keeps it in the overlay.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tidemark_catalog::Cursor;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{
    ListedEntry, Log, LogParameters, LogReader, Outcome, ParameterSchedule, ParameterSource, ReaderLimits,
    ResolvedEntry, Token,
};
use tokio::time::Instant;

use super::{
    overlay::News,
    view::{Gap, Listed},
};
use tidemark_ingest::OperationRecord;

/// GETs of entries at once.
const FETCHED_AT_ONCE: usize = 16;
/// Most entries that become visible together.
const BATCH: usize = 500;
/// Most bytes of entries that are read for that, by their listed sizes.
const BATCH_BYTES: u64 = 16 << 20;
/// How far behind the newest entry a quick look starts: writers need a moment between a token and its entry.
const QUICK: Duration = Duration::from_secs(15);
/// How often the whole range from the cursor is listed.
const WHOLE: Duration = Duration::from_secs(30);
/// For how long parameters are used before they are read again. They only tell whether an entry is complete.
const PARAMETERS: Duration = Duration::from_mins(1);
/// A token may be so much later than its entry's store time.
const FUTURE: Duration = Duration::from_mins(1);
/// A listing ends after so many entries that there is no room for: the index is far behind, and will show them sealed.
const MOST_BEYOND: usize = 100_000;
/// An index whose cursor lies so far before the horizon is far behind: the ingest reads what lies between anyway.
const FAR: Duration = Duration::from_mins(10);
/// How far before the horizon the tail then starts.
const MARGIN: Duration = Duration::from_mins(1);
/// How long an incomplete entry is left alone, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The reading half of the tail: what to list and fetch next.
pub(crate) struct Tail {
    reader: LogReader,
    parameters: Arc<dyn ParameterSource>,
    schedule: Option<(ParameterSchedule, Instant)>,
    whole: Option<Instant>,
    /// Where the last whole listing started.
    started: StoreSecond,
    /// The newest second that an entry bears and that its store time has reached.
    newest: StoreSecond,
    looks: BTreeMap<Token, (Instant, Duration)>,
}

impl Tail {
    pub(crate) fn new(log: &Log, parameters: Arc<dyn ParameterSource>, limits: ReaderLimits) -> Self {
        // The range has no end, so that slices of it would be listed in vain.
        let limits = ReaderLimits { listings: 1, ..limits };
        Self {
            reader: LogReader::new(log, limits),
            parameters,
            schedule: None,
            whole: None,
            started: StoreSecond::default(),
            newest: StoreSecond::default(),
            looks: BTreeMap::new(),
        }
    }

    /// The reader, for entries that no listing showed yet.
    pub(crate) fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// The parameters of the log, or some that do for a log that has none yet.
    pub(crate) async fn schedule(&mut self) -> ParameterSchedule {
        if let Some((schedule, read)) = &self.schedule
            && read.elapsed() < PARAMETERS
        {
            return schedule.clone();
        }
        match self.parameters.schedule().await {
            Ok(schedule) => {
                self.schedule = Some((schedule.clone(), Instant::now()));
                schedule
            }
            Err(error) => {
                tracing::debug!(%error, "the log's parameters cannot be read");
                any_schedule()
            }
        }
    }

    /// Where the tail starts: at the cursor, or near the horizon while the index is far behind. `horizon` is the
    /// published one, a lower bound of today's.
    fn start(&self, cursor: Cursor, horizon: StoreSecond) -> StoreSecond {
        let delay = self.schedule.as_ref().map(|(schedule, _)| schedule.newest().parameters.horizon_delay());
        let horizon = delay.map_or(horizon, |delay| horizon.max(self.newest.before(delay)));
        let cursor = cursor.second();
        if horizon.since(cursor) > FAR { cursor.max(horizon.before(MARGIN)) } else { cursor }
    }

    /// What waits for the ingest between the cursor and the start of the tail.
    async fn gap(&self, cursor: Cursor, start: StoreSecond) -> Result<Option<Gap>, StoreError> {
        let oldest = self.reader.list(cursor.second(), start).next().await.transpose()?;
        Ok(oldest.map(|oldest| Gap { oldest: oldest.token.second(), start }))
    }

    /// The entries of the tail that `known` does not know, oldest first: as many as there is `room` for, and the tokens of
    /// those beyond.
    pub(crate) async fn list(
        &mut self,
        (cursor, horizon): (Cursor, StoreSecond),
        listed: &mut Listed,
        room: usize,
        known: impl Fn(&Token) -> bool,
    ) -> Result<(Vec<ListedEntry>, Vec<Token>), StoreError> {
        let begun = Instant::now();
        if self.schedule.is_none() {
            self.schedule().await;
        }
        let start = self.start(cursor, horizon);
        let whole = start < self.started || self.whole.is_none_or(|whole| whole.elapsed() >= WHOLE);
        let from = if whole { start } else { self.newest.before(QUICK).max(start) };
        let mut entries = self.reader.list(from, StoreSecond::KSUID_END.next());
        let (mut news, mut beyond, mut future, mut cut) = (Vec::new(), Vec::new(), 0, false);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.token.second() > entry.time.after(FUTURE) {
                future += 1;
                continue;
            }
            listed.note(entry.time);
            // One writer whose clock is ahead must not lead the quick looks past everybody else's entries.
            self.newest = self.newest.max(entry.token.second().min(entry.time));
            if known(&entry.token) {
                continue;
            }
            if news.len() < room {
                news.push(entry);
            } else {
                beyond.push(entry.token);
            }
            if beyond.len() >= MOST_BEYOND {
                cut = true;
                break;
            }
        }
        // The listing may have shown that the index is farther behind than was known.
        let start = self.start(cursor, horizon);
        listed.start = start;
        news.retain(|entry| entry.token.second() >= start);
        beyond.retain(|token| token.second() >= start);
        if cut && start > from {
            // It has not come near the end of the log yet, and goes on from there.
            news.clear();
            beyond.clear();
        } else if whole {
            (self.whole, self.started, listed.future) = (Some(begun), start, future);
            listed.gap = self.gap(cursor, start).await?;
        }
        listed.unrecognized_keys = self.reader.unrecognized_keys();
        listed.delay = self.schedule.as_ref().map(|(schedule, _)| schedule.newest().parameters.horizon_delay());
        Ok((news, beyond))
    }

    /// Reads entries; one that fails is left for a later round. Tells the last failure.
    pub(crate) async fn fetch(&mut self, entries: &[ListedEntry]) -> (Vec<News>, Option<StoreError>) {
        let schedule = self.schedule().await;
        let (reader, schedule) = (&self.reader, &schedule);
        let results: Vec<_> = stream::iter(entries.to_vec())
            .map(|entry| async move { reader.fetch(&entry, schedule).await.map(|resolved| news_of(&resolved)) })
            .buffered(FETCHED_AT_ONCE)
            .collect()
            .await;
        let (mut news, mut failure) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(read) => news.push(read),
                Err(error) => failure = Some(error),
            }
        }
        (news, failure)
    }

    /// Incomplete entries whose time to be read again has come.
    pub(crate) fn due(&mut self, incomplete: impl Iterator<Item = Token>) -> Vec<Token> {
        let now = Instant::now();
        let looks = std::mem::take(&mut self.looks);
        let look = |token| looks.get(&token).copied().unwrap_or((now + LOOKS.0, LOOKS.0));
        self.looks = incomplete.map(|token| (token, look(token))).collect();
        let due = self.looks.iter().filter(|(_, (at, _))| *at <= now);
        due.map(|(token, _)| *token).take(BATCH).collect()
    }

    /// Reads entries again. What fails or is gone is tried again later.
    pub(crate) async fn look_again(&mut self, tokens: &[Token]) -> (Vec<News>, Option<StoreError>) {
        let schedule = self.schedule().await;
        let (reader, schedule) = (&self.reader, &schedule);
        let results: Vec<_> = stream::iter(tokens.to_vec())
            .map(|token| async move { Ok(reader.lookup(token, schedule).await?.map(|resolved| news_of(&resolved))) })
            .buffered(FETCHED_AT_ONCE)
            .collect()
            .await;
        let (mut news, mut failure) = (Vec::new(), None);
        for (token, result) in tokens.iter().zip(results) {
            match result {
                Ok(Some(read)) => news.push(read),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
            self.put_off(*token);
        }
        (news, failure)
    }

    fn put_off(&mut self, token: Token) {
        let (first, most) = LOOKS;
        let wait = self.looks.get(&token).map_or(first, |(_, wait)| (*wait * 2).min(most));
        self.looks.insert(token, (Instant::now() + wait, wait));
    }
}

/// Entries in the portions that are read and become visible together.
pub(crate) fn batches(entries: &[ListedEntry]) -> impl Iterator<Item = &[ListedEntry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut bytes = 0u64;
        let fitting = rest.iter().take(BATCH).take_while(|entry| {
            bytes = bytes.saturating_add(entry.size);
            bytes <= BATCH_BYTES
        });
        let (batch, left) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = left;
        (!batch.is_empty()).then_some(batch)
    })
}

/// What the overlay keeps of an entry.
pub(crate) fn news_of(resolved: &ResolvedEntry) -> News {
    let complete = resolved.ops.iter().all(|op| op.decision.outcome != Outcome::Aborted);
    News { token: resolved.token, records: OperationRecord::from_resolved(resolved), complete }
}

/// Parameters that do where a log has none yet: whether an entry is complete hardly depends on them.
pub(crate) fn any_schedule() -> ParameterSchedule {
    ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_hours(1)))
}

#[cfg(test)]
mod tests {
    use tidemark_store::Store;

    use super::*;
    use crate::index::testing::{BEGIN, token};

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
        let mut tail = Tail::new(&log, Arc::new(any_schedule()), ReaderLimits::default());
        let listing = (Cursor::default(), StoreSecond::default());
        let (news, _) = tail.list(listing, &mut Listed::default(), 10, |_| false).await.unwrap();
        assert_eq!(news.len(), 1);
        assert!(tail.newest < time.after(Duration::from_secs(30)), "{:?}", tail.newest);
    }
}
