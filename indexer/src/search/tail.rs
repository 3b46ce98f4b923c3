//! Follows the log beyond the served manifest's cursor and keeps it in the overlay.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tidemark_catalog::Cursor;
use tidemark_wal::{
    Limits, Listed as Entry, Log, Outcome, ParameterSource, Parameters, Reader, Resolved, Schedule, Second, StoreError,
    Token,
};
use tokio::time::Instant;

use super::{overlay::News, view::Listed};
use crate::Record;

/// GETs of entries at once.
const FETCHED_AT_ONCE: usize = 16;
/// Entries that become visible together.
pub(crate) const BATCH: usize = 500;
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
/// How long an incomplete entry is left alone, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The reading half of the tail: what to list and fetch next.
pub(crate) struct Tail {
    reader: Reader,
    parameters: Arc<dyn ParameterSource>,
    schedule: Option<(Schedule, Instant)>,
    whole: Option<Instant>,
    newest: Second,
    looks: BTreeMap<Token, (Instant, Duration)>,
}

impl Tail {
    pub(crate) fn new(log: &Log, parameters: Arc<dyn ParameterSource>) -> Self {
        // The range has no end, so that slices of it would be listed in vain.
        let limits = Limits { listings: 1, ..Limits::default() };
        Self {
            reader: Reader::new(log, limits),
            parameters,
            schedule: None,
            whole: None,
            newest: Second::default(),
            looks: BTreeMap::new(),
        }
    }

    /// The reader, for entries that no listing showed yet.
    pub(crate) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The parameters of the log, or some that do for a log that has none yet.
    pub(crate) async fn schedule(&mut self) -> Schedule {
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

    /// The entries at or after `cursor` that `known` does not know, oldest first: as many as there is `room` for, and the
    /// tokens of those beyond.
    pub(crate) async fn list(
        &mut self,
        cursor: Cursor,
        listed: &mut Listed,
        room: usize,
        known: impl Fn(&Token) -> bool,
    ) -> Result<(Vec<Entry>, Vec<Token>), StoreError> {
        let begun = Instant::now();
        let whole = self.whole.is_none_or(|whole| whole.elapsed() >= WHOLE);
        let quick = self.newest.before(QUICK).max(cursor.second());
        let from = if whole { cursor.second() } else { quick };
        let mut entries = self.reader.list(from, Second::KSUID_END.next());
        let (mut news, mut beyond, mut future) = (Vec::new(), Vec::new(), 0);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.token.second() > entry.time.after(FUTURE) {
                future += 1;
                continue;
            }
            listed.note(entry.time);
            self.newest = self.newest.max(entry.token.second());
            if known(&entry.token) {
                continue;
            }
            if news.len() < room {
                news.push(entry);
            } else {
                beyond.push(entry.token);
            }
            if beyond.len() >= MOST_BEYOND {
                break;
            }
        }
        if whole {
            (self.whole, listed.future) = (Some(begun), future);
        }
        listed.strangers = self.reader.strangers();
        listed.delay = self.schedule.as_ref().map(|(schedule, _)| schedule.newest().parameters.horizon_delay());
        Ok((news, beyond))
    }

    /// Reads entries; one that fails is left for a later round. Tells the last failure.
    pub(crate) async fn fetch(&mut self, entries: &[Entry]) -> (Vec<News>, Option<StoreError>) {
        let schedule = self.schedule().await;
        let (reader, schedule) = (&self.reader, &schedule);
        let results: Vec<_> = stream::iter(entries.to_vec())
            .map(|entry| async move { reader.fetch(&entry, schedule).await })
            .buffered(FETCHED_AT_ONCE)
            .collect()
            .await;
        let (mut news, mut failure) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(resolved) => news.push(news_of(&resolved)),
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
            .map(|token| async move { reader.lookup(token, schedule).await })
            .buffered(FETCHED_AT_ONCE)
            .collect()
            .await;
        let (mut news, mut failure) = (Vec::new(), None);
        for (token, result) in tokens.iter().zip(results) {
            match result {
                Ok(Some(resolved)) => news.push(news_of(&resolved)),
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

/// What the overlay keeps of an entry.
pub(crate) fn news_of(resolved: &Resolved) -> News {
    let complete = resolved.ops.iter().all(|op| op.decision.outcome != Outcome::Aborted);
    News { token: resolved.token, records: Record::from_resolved(resolved), complete }
}

/// Parameters that do where a log has none yet: whether an entry is complete hardly depends on them.
pub(crate) fn any_schedule() -> Schedule {
    Schedule::constant(Parameters::with_expiry(Duration::from_hours(1)))
}
