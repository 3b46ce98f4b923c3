//! What ended a drain. The next one begins with it alone, before all that it keeps from being published is read again.
//!
//! A second may have any number of entries, and none of them is published before all of them are resolved. Those that cannot be
//! read are therefore collected and tried at once, so that they are judged together, and none of the others is read meanwhile.

use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, Token};

use crate::{
    entry_stream::{EntryListing, EntryReader, TAIL_ATTEMPTS, TriedEntry, listing_of},
    error::IngestError,
    horizon::SealedHorizon,
    publisher::IndexPublisher,
    record_resolver::IndexQuestion,
};

/// Failing entries that are tried at once: more than may be judged within an hour.
const MAX_FAILING_ENTRIES: usize = 128;
/// How many entries are tried at least where others are looked for that fail too, beyond the second of the first one if need be.
const MIN_TRIED_ENTRIES: usize = 64;

/// What ended a drain.
#[derive(Debug)]
pub(crate) enum DrainObstacle {
    /// These cannot be read.
    Entries(FailingEntries),
    /// The published index does not answer this about records of this second and perhaps of later ones.
    Question(StoreSecond, IndexQuestion),
}

impl DrainObstacle {
    /// The second that it is in: what precedes it can be published. `None` if it is not there any more.
    pub(crate) async fn second(
        &mut self,
        entries: &EntryReader,
        sealed: &SealedHorizon,
    ) -> Result<Option<StoreSecond>, StoreError> {
        match self {
            Self::Entries(failing) => failing.first_second(entries, sealed).await,
            Self::Question(second, _) => Ok(Some(*second)),
        }
    }

    /// Tries it alone, and drops what it gives: an error if it still is in the way.
    pub(crate) async fn retry(
        &mut self,
        entries: &EntryReader,
        publisher: &mut IndexPublisher,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        match self {
            Self::Entries(failing) => failing.retry(entries, sealed).await,
            Self::Question(_, question) => Ok(question.ask(&*publisher.lookup().await?).await?),
        }
    }
}

/// The entries of one second that cannot be read, and some that follow: those that are known.
#[derive(Debug)]
pub(crate) struct FailingEntries {
    /// Where the drain that failed began.
    begin: StoreSecond,
    /// Every entry of that drain up to this one was read, or is known to fail.
    known_to: Option<Token>,
    /// Those that failed when they were tried last, in token order.
    failing: Vec<ListedEntry>,
    /// How far others are looked for.
    search: SearchProgress,
}

/// How far other entries are looked for that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchProgress {
    /// They are looked for once the first one fails again.
    Pending,
    /// In the seconds before `end`, and until so many were tried.
    Running { end: StoreSecond, tried: usize },
    /// All of them are known.
    Complete,
}

impl FailingEntries {
    /// The first entry after `newest` of a drain from `begin` on cannot be read.
    pub(crate) fn after(begin: StoreSecond, newest: Option<Token>) -> Self {
        Self { begin, known_to: newest, failing: Vec::new(), search: SearchProgress::Pending }
    }

    async fn first_second(
        &mut self,
        entries: &EntryReader,
        sealed: &SealedHorizon,
    ) -> Result<Option<StoreSecond>, StoreError> {
        if self.failing.is_empty() {
            let first = self.list_unknown(entries, sealed).try_next().await?;
            self.known_to = first.map(|first| first.token).or(self.known_to);
            self.failing.extend(first);
        }
        Ok(self.failing.first().map(|first| first.token.second()))
    }

    /// Tries the first one, and where it still fails all others that do.
    async fn retry(&mut self, entries: &EntryReader, sealed: &SealedHorizon) -> Result<(), IngestError> {
        if self.search == SearchProgress::Pending && self.retry_failing(entries, sealed, 1).await?.is_none() {
            return Ok(());
        }
        loop {
            self.find_others(entries, sealed).await?;
            if let Some(failure) = self.retry_failing(entries, sealed, TAIL_ATTEMPTS).await? {
                return Err(failure.into());
            }
            if self.search == SearchProgress::Complete {
                return Ok(());
            }
        }
    }

    /// Why the first of those fails that still do.
    async fn retry_failing(
        &mut self,
        entries: &EntryReader,
        sealed: &SealedHorizon,
        attempts: u32,
    ) -> Result<Option<StoreError>, StoreError> {
        let tried = entries.try_each(listing_of(self.failing.clone()), &sealed.schedule, attempts);
        let tried: Vec<TriedEntry> = tried.try_collect().await?;
        self.failing = tried.iter().filter(|tried| tried.failure.is_some()).map(|tried| tried.listed).collect();
        Ok(tried.into_iter().find_map(|tried| tried.failure))
    }

    /// Tries each of the others once, until so many are known to fail.
    async fn find_others(&mut self, entries: &EntryReader, sealed: &SealedHorizon) -> Result<(), StoreError> {
        let (end, mut tried) = match (self.search, self.failing.first()) {
            (SearchProgress::Running { end, tried }, _) => (end, tried),
            (SearchProgress::Pending, Some(first)) => (first.token.second().next(), 1),
            (SearchProgress::Pending, None) | (SearchProgress::Complete, _) => return Ok(()),
        };
        self.search = SearchProgress::Running { end, tried };
        let mut listed = tried;
        let mut within = move |entry: &Result<ListedEntry, StoreError>| {
            listed += 1;
            entry.as_ref().map_or(true, |entry| entry.token.second() < end || listed <= MIN_TRIED_ENTRIES)
        };
        let others = self.list_unknown(entries, sealed).take_while(move |entry| {
            let within = within(entry);
            async move { within }
        });
        let mut others = std::pin::pin!(entries.try_each(others.boxed(), &sealed.schedule, 1));
        while self.failing.len() < MAX_FAILING_ENTRIES {
            let Some(other) = others.try_next().await? else {
                self.search = SearchProgress::Complete;
                return Ok(());
            };
            tried += 1;
            self.known_to = Some(other.listed.token);
            self.search = SearchProgress::Running { end, tried };
            self.failing.extend(other.failure.map(|_| other.listed));
        }
        Ok(())
    }

    /// The entries of which nothing is known yet.
    fn list_unknown(&self, entries: &EntryReader, sealed: &SealedHorizon) -> EntryListing {
        match self.known_to {
            Some(token) => entries.list_after(token, sealed.horizon),
            None => entries.list(self.begin, sealed.horizon),
        }
    }
}
