//! Reading sealed entries: listed once, fetched many at a time, handed on in token order.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream, stream::BoxStream};
use tidemark_catalog::Cursor;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule, ResolvedEntry, Token};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinError,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::{IngestOptions, status::Reporter};
use crate::OperationRecord;

/// A failing store is asked again after this, then after twice as long, and so on.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A failing store is asked at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An entry that was listed and is absent is looked for so often before it counts as deleted.
const TRIES_OF_ABSENT: u32 = 5;
/// What an entry takes of the memory for entries, at least.
const SMALLEST: u64 = 4 * 1024;

/// An entry as records, with its share of the memory for entries, which it gives back when it is dropped.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) second: StoreSecond,
    pub(crate) records: Vec<OperationRecord>,
    _room: OwnedSemaphorePermit,
}

/// Entries on their way: in token order, none left out.
#[derive(Debug)]
pub(crate) struct Entries {
    receiver: mpsc::Receiver<Fetched>,
    _task: AbortOnDropHandle<()>,
}

impl Entries {
    /// Fetches what `listing` gives, tireless: a store that fails is reported and asked again, nothing is skipped.
    pub(crate) fn fetch(
        reader: &LogReader,
        schedule: &ParameterSchedule,
        listing: BoxStream<'static, ListedEntry>,
        options: &IngestOptions,
        reporter: &Reporter,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(options.chunk.max(1));
        let fetcher =
            Fetcher { reader: reader.clone(), schedule: Arc::new(schedule.clone()), reporter: reporter.clone() };
        let largest = options.limits.entry.max(SMALLEST);
        let fetched = fetcher.run(listing, options.fetches.max(1), options.entry_memory, largest);
        let task = tokio::spawn(hand_on(fetched, sender));
        Self { receiver, _task: AbortOnDropHandle::new(task) }
    }

    /// The next entries, at least one and at most `most`; none at the end.
    pub(crate) async fn next(&mut self, most: usize) -> Vec<Fetched> {
        let mut entries = Vec::new();
        self.receiver.recv_many(&mut entries, most).await;
        entries
    }
}

async fn hand_on(fetched: impl stream::Stream<Item = Fetched>, sender: mpsc::Sender<Fetched>) {
    let mut fetched = std::pin::pin!(fetched);
    while let Some(entry) = fetched.next().await {
        if sender.send(entry).await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Debug)]
struct Fetcher {
    reader: LogReader,
    schedule: Arc<ParameterSchedule>,
    reporter: Reporter,
}

impl Fetcher {
    /// Each fetch is a task of its own, so that it goes on while the batch before it is being indexed. Memory is taken
    /// in token order, so that the entry that is waited for always has its share.
    fn run(
        self,
        listing: BoxStream<'static, ListedEntry>,
        fetches: usize,
        memory: u64,
        largest: u64,
    ) -> impl stream::Stream<Item = Fetched> {
        let permits = usize::try_from(memory.max(largest) / SMALLEST).unwrap_or(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        listing
            .then(move |listed| {
                let wanted = u32::try_from(listed.size.clamp(SMALLEST, largest) / SMALLEST).unwrap_or(1);
                let room = room.clone();
                async move { (listed, room.acquire_many_owned(wanted).await) }
            })
            .filter_map(|(listed, room)| async move { Some((listed, room.ok()?)) })
            .map(move |(listed, room)| {
                let mut fetcher = self.clone();
                let fetch = async move { fetcher.fetch(listed).await.as_ref().map(OperationRecord::from_resolved) };
                let task = AbortOnDropHandle::new(tokio::spawn(fetch));
                async move {
                    let records = finished(task).await?;
                    Some(Fetched { second: listed.token.second(), records, _room: room })
                }
            })
            .buffered(fetches)
            .filter_map(std::future::ready)
    }

    /// The entry. None of it is left out; but one that was listed and then stays absent was deleted by somebody.
    async fn fetch(&mut self, listed: ListedEntry) -> Option<ResolvedEntry> {
        let (mut pause, mut tries) = (FIRST_PAUSE, 0);
        loop {
            tries += 1;
            match self.reader.fetch(&listed, &self.schedule).await {
                Ok(resolved) => {
                    if tries > 1 {
                        self.reporter.well();
                    }
                    return Some(resolved);
                }
                Err(_) if tries > TRIES_OF_ABSENT && self.is_gone(&listed).await => return None,
                Err(failure) => {
                    self.reporter.trouble("reading an entry", &failure);
                    pause = rest(pause).await;
                }
            }
        }
    }

    async fn is_gone(&mut self, listed: &ListedEntry) -> bool {
        let found = self.reader.lookup(listed.token, &self.schedule).await;
        let gone = matches!(found, Ok(None));
        if gone {
            error!(token = %listed.token, "the entry was deleted after it was listed: it is left out; only cleanup may delete from a log");
            self.reporter.well();
        }
        gone
    }
}

/// The task's answer. A panic goes on in the caller; an aborted task belongs to a runtime that ends.
pub(crate) async fn finished<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

/// The entries of the seconds from `from` up to, not including, `to`; a listing that fails is reported and continued.
pub(crate) fn list(
    reader: &LogReader,
    from: StoreSecond,
    to: StoreSecond,
    reporter: &Reporter,
) -> BoxStream<'static, ListedEntry> {
    let listing = Listing {
        reader: reader.clone(),
        from,
        to,
        last: None,
        page: None,
        pause: FIRST_PAUSE,
        reporter: reporter.clone(),
    };
    stream::unfold(listing, Listing::next).boxed()
}

struct Listing {
    reader: LogReader,
    from: StoreSecond,
    to: StoreSecond,
    last: Option<Token>,
    page: Option<BoxStream<'static, Result<ListedEntry, StoreError>>>,
    pause: Duration,
    reporter: Reporter,
}

impl Listing {
    async fn next(mut self) -> Option<(ListedEntry, Self)> {
        loop {
            let (reader, from, to) = (&self.reader, self.from, self.to);
            let page = self.page.get_or_insert_with(|| reader.list(from, to));
            match page.next().await? {
                Ok(listed) if self.last.is_some_and(|last| listed.token <= last) => {}
                Ok(listed) => {
                    self.take(listed);
                    return Some((listed, self));
                }
                Err(failure) => {
                    self.page = None;
                    self.reporter.trouble("listing the log", &failure);
                    self.pause = rest(self.pause).await;
                }
            }
        }
    }

    fn take(&mut self, listed: ListedEntry) {
        (self.last, self.from) = (Some(listed.token), listed.token.second());
        if self.pause > FIRST_PAUSE {
            self.pause = FIRST_PAUSE;
            self.reporter.well();
        }
    }
}

/// Waits, and gives how long to wait the next time.
pub(crate) async fn rest(pause: Duration) -> Duration {
    sleep(pause).await;
    (pause * 2).min(LONGEST_PAUSE)
}

/// The oldest entry that is not below `cursor`, by one listing.
pub(crate) async fn oldest(reader: &LogReader, cursor: Cursor) -> Result<Option<Token>, StoreError> {
    let mut page = reader.list(cursor.second(), StoreSecond::KSUID_END.next());
    let first = page.next().await.transpose()?;
    Ok(first.map(|listed| listed.token))
}
