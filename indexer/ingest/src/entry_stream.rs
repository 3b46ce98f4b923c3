//! The walk of the log: sealed entries, listed once, fetched concurrently, delivered in token order.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, future, stream, stream::BoxStream};
use tidemark_catalog::Cursor;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule, ResolvedEntry, Token};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::{options::IngestOptions, record::OperationRecord, retry::StageRetrier, task};

/// Attempts to read a listed entry that is absent before it counts as deleted.
const ABSENT_ATTEMPTS: u32 = 5;
/// Bytes of the memory for entries that one entry takes at least.
const MIN_ENTRY_BYTES: u64 = 4 * 1024;

/// Entries in token order, as a listing shows them; ends after the first error.
///
/// The store's listing retries each page and resumes behind the last key. An error here means that it gave up: the
/// reader of the listing starts a new one from the published cursor.
pub(crate) type EntryListing = BoxStream<'static, Result<ListedEntry, StoreError>>;

/// An entry as records, with its share of the memory for entries, which it returns when it is dropped.
#[derive(Debug)]
pub(crate) struct FetchedEntry {
    pub(crate) second: StoreSecond,
    pub(crate) records: Vec<OperationRecord>,
    _memory: OwnedSemaphorePermit,
}

/// Lists and fetches the entries of a log. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EntryReader {
    reader: LogReader,
    retrier: StageRetrier,
    fetches: usize,
    chunk: usize,
    entry_memory: u64,
    max_entry_bytes: u64,
}

impl EntryReader {
    pub(crate) fn new(reader: LogReader, retrier: StageRetrier, options: &IngestOptions) -> Self {
        Self {
            reader,
            retrier,
            fetches: options.fetches.max(1),
            chunk: options.chunk.max(1),
            entry_memory: options.entry_memory,
            max_entry_bytes: options.limits.entry.max(MIN_ENTRY_BYTES),
        }
    }

    /// The log's reader.
    pub(crate) fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// The entries of the seconds from `from` up to, not including, `to`.
    pub(crate) fn list(&self, from: StoreSecond, to: StoreSecond) -> EntryListing {
        self.reader.list(from, to)
    }

    /// The oldest entry that is not below `cursor`, by one listing.
    pub(crate) async fn oldest(&self, cursor: Cursor) -> Result<Option<Token>, StoreError> {
        let mut listing = self.list(cursor.second(), StoreSecond::KSUID_END.next());
        Ok(listing.try_next().await?.map(|listed| listed.token))
    }

    /// Fetches the entries of `listing`. A fetch that fails is retried until it succeeds; no entry is skipped.
    pub(crate) fn fetch(&self, listing: EntryListing, schedule: &ParameterSchedule) -> EntryStream {
        let (sender, receiver) = mpsc::channel(self.chunk);
        let fetcher =
            EntryFetcher { reader: self.reader.clone(), schedule: schedule.clone(), retrier: self.retrier.clone() };
        let entries = self.fetch_concurrently(Arc::new(fetcher), listing);
        let task = tokio::spawn(forward(entries, sender));
        EntryStream { receiver, chunk: self.chunk, _task: AbortOnDropHandle::new(task) }
    }

    fn fetch_concurrently(
        &self,
        fetcher: Arc<EntryFetcher>,
        listing: EntryListing,
    ) -> impl stream::Stream<Item = Result<FetchedEntry, StoreError>> + use<> {
        let max = self.max_entry_bytes;
        let permits = usize::try_from(self.entry_memory.max(max) / MIN_ENTRY_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        let memory = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        listing
            // Memory is acquired in token order, so that the entry that the consumer waits for always has its share.
            .and_then(move |listed| {
                let share = u32::try_from(listed.size.clamp(MIN_ENTRY_BYTES, max) / MIN_ENTRY_BYTES).unwrap_or(1);
                let memory = memory.clone();
                async move { Ok((listed, memory.acquire_many_owned(share).await)) }
            })
            .map_ok(move |(listed, memory)| {
                // A task of its own continues while the batch before it is being indexed; a mere future would not.
                let fetcher = fetcher.clone();
                let fetch = async move { fetcher.fetch(listed).await.as_ref().map(OperationRecord::from_resolved) };
                let task = AbortOnDropHandle::new(tokio::spawn(fetch));
                async move {
                    let (records, memory) = (task::join(task).await, memory.ok());
                    let entry = records.zip(memory).map(|(records, memory)| FetchedEntry {
                        second: listed.token.second(),
                        records,
                        _memory: memory,
                    });
                    Ok(entry)
                }
            })
            .map(|fetch| async move {
                match fetch {
                    Ok(fetch) => fetch.await,
                    Err(error) => Err(error),
                }
            })
            .buffered(self.fetches)
            .try_filter_map(future::ok)
    }
}

/// Entries in token order; ends after the first error.
#[derive(Debug)]
pub(crate) struct EntryStream {
    receiver: mpsc::Receiver<Result<FetchedEntry, StoreError>>,
    chunk: usize,
    _task: AbortOnDropHandle<()>,
}

impl EntryStream {
    /// The next entries: at least one, and at most a chunk; none at the end.
    pub(crate) async fn next_chunk(&mut self) -> Result<Vec<FetchedEntry>, StoreError> {
        let mut entries = Vec::new();
        self.receiver.recv_many(&mut entries, self.chunk).await;
        entries.into_iter().collect()
    }
}

async fn forward(
    entries: impl stream::Stream<Item = Result<FetchedEntry, StoreError>>,
    sender: mpsc::Sender<Result<FetchedEntry, StoreError>>,
) {
    let mut entries = std::pin::pin!(entries);
    while let Some(entry) = entries.next().await {
        if sender.send(entry).await.is_err() {
            return;
        }
    }
}

/// Fetches single entries.
#[derive(Debug)]
struct EntryFetcher {
    reader: LogReader,
    schedule: ParameterSchedule,
    retrier: StageRetrier,
}

impl EntryFetcher {
    /// The entry with all its operations; `None` if it was deleted after it was listed.
    async fn fetch(&self, listed: ListedEntry) -> Option<ResolvedEntry> {
        let mut attempt = 0;
        let call = || {
            attempt += 1;
            self.fetch_once(&listed, attempt)
        };
        self.retrier.until_ok("reading an entry", call).await
    }

    async fn fetch_once(&self, listed: &ListedEntry, attempt: u32) -> Result<Option<ResolvedEntry>, StoreError> {
        match self.reader.fetch(listed, &self.schedule).await {
            Err(_) if attempt > ABSENT_ATTEMPTS && self.is_deleted(listed).await => Ok(None),
            fetched => fetched.map(Some),
        }
    }

    async fn is_deleted(&self, listed: &ListedEntry) -> bool {
        let deleted = matches!(self.reader.lookup(listed.token, &self.schedule).await, Ok(None));
        if deleted {
            error!(token = %listed.token, "the entry was deleted after it was listed; the index does not contain it; allow only cleanup to delete from a log");
        }
        deleted
    }
}
