//! The walk of the log: sealed entries, listed once, fetched concurrently, delivered in token order.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream, stream::BoxStream};
use tidemark_catalog::LogCursor;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule, Token};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::{error::IngestError, mutants, options::IngestOptions, record::OperationRecord, retry::StageRetrier, task};

/// Attempts to read a listed entry that is absent before it counts as deleted.
const ABSENT_ATTEMPTS: u32 = 5;
/// Attempts of the tail to read an entry, about a minute of pauses, before the stream ends with the error.
pub(crate) const TAIL_ATTEMPTS: u32 = 8;
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
    /// The entry's listed size in bytes.
    pub(crate) size: u64,
    memory: Option<OwnedSemaphorePermit>,
}

impl FetchedEntry {
    /// Returns the share of the memory for entries; the caller bounds what it keeps.
    pub(crate) fn release_memory(&mut self) {
        self.memory = None;
    }

    #[cfg(test)]
    pub(crate) fn of_second(second: StoreSecond, size: u64) -> Self {
        Self { second, records: Vec::new(), size, memory: None }
    }
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
    pub(crate) async fn oldest(&self, cursor: LogCursor) -> Result<Option<Token>, StoreError> {
        let mut listing = self.list(cursor.second(), StoreSecond::KSUID_END.next());
        Ok(listing.try_next().await?.map(|listed| listed.token))
    }

    /// Fetches the entries of `listing`; no entry is skipped. A fetch that fails `attempts` times ends the stream, so that
    /// what precedes it can be published and the listing begun again.
    pub(crate) fn fetch(&self, listing: EntryListing, schedule: &ParameterSchedule, attempts: u32) -> EntryStream {
        let (sender, receiver) = mpsc::channel(self.chunk);
        let (reader, schedule, retrier) = (self.reader.clone(), schedule.clone(), self.retrier.clone());
        let fetcher = EntryFetcher { reader, schedule, retrier, attempts };
        let entries = self.fetch_concurrently(Arc::new(fetcher), listing);
        let task = tokio::spawn(forward(entries, sender));
        EntryStream { receiver, chunk: self.chunk, end: None, _task: AbortOnDropHandle::new(task) }
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
                let task = AbortOnDropHandle::new(tokio::spawn(async move { fetcher.fetch(listed).await }));
                async move {
                    let (records, memory) = (task::join(task).await?, memory.ok());
                    let entry = records.zip(memory).map(|(records, memory)| FetchedEntry {
                        second: listed.token.second(),
                        records,
                        size: listed.size,
                        memory: Some(memory),
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

/// What the task that fetches sends.
enum StreamItem {
    Entry(FetchedEntry),
    /// Everything that the listing showed was sent. A channel that closes without it is no end of the listing.
    End,
}

/// Entries in token order; ends after the first error.
pub(crate) struct EntryStream {
    receiver: mpsc::Receiver<Result<StreamItem, StoreError>>,
    chunk: usize,
    /// How it ended, once it has.
    end: Option<Result<(), StoreError>>,
    _task: AbortOnDropHandle<()>,
}

impl EntryStream {
    /// The next entries: at least one, and at most a chunk; none at the end of the listing. What precedes an error comes
    /// before it.
    pub(crate) async fn next_chunk(&mut self) -> Result<Vec<FetchedEntry>, IngestError> {
        let mut entries = Vec::new();
        if self.end.is_none() {
            let mut items = Vec::new();
            self.receiver.recv_many(&mut items, self.chunk).await;
            if mutants::is_broken_off(items.is_empty()) {
                return Err(IngestError::EntryStreamBroken);
            }
            for item in items {
                match item {
                    Ok(StreamItem::Entry(entry)) => entries.push(entry),
                    Ok(StreamItem::End) => self.end = Some(Ok(())),
                    Err(error) => self.end = Some(Err(error)),
                }
            }
        }
        match &self.end {
            Some(Err(error)) if entries.is_empty() => Err(error.clone().into()),
            _ => Ok(entries),
        }
    }
}

async fn forward(
    entries: impl stream::Stream<Item = Result<FetchedEntry, StoreError>>,
    sender: mpsc::Sender<Result<StreamItem, StoreError>>,
) {
    let mut entries = std::pin::pin!(entries);
    while let Some(entry) = entries.next().await {
        let failed = entry.is_err();
        if sender.send(entry.map(StreamItem::Entry)).await.is_err() || failed {
            return;
        }
    }
    // Nobody waits for the end of a stream that was dropped.
    let _ = sender.send(Ok(StreamItem::End)).await;
}

/// Fetches single entries.
#[derive(Debug)]
struct EntryFetcher {
    reader: LogReader,
    schedule: ParameterSchedule,
    retrier: StageRetrier,
    attempts: u32,
}

impl EntryFetcher {
    /// The records of the entry; `None` if it was deleted after it was listed.
    async fn fetch(&self, listed: ListedEntry) -> Result<Option<Vec<OperationRecord>>, StoreError> {
        let mut attempts = self.retrier.attempts("reading an entry");
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.fetch_once(&listed, attempt).await {
                Ok(records) => {
                    attempts.succeed();
                    return Ok(records);
                }
                Err(error) if attempt >= self.attempts => return Err(error),
                Err(error) => attempts.fail(&error).await,
            }
        }
    }

    async fn fetch_once(&self, listed: &ListedEntry, attempt: u32) -> Result<Option<Vec<OperationRecord>>, StoreError> {
        match self.read(listed).await {
            Err(_) if attempt > ABSENT_ATTEMPTS.min(self.attempts - 1) && self.is_deleted(listed).await => Ok(None),
            read => read.map(Some),
        }
    }

    /// One attempt. A panic is a fault of this entry: it is judged as one that the store refuses.
    async fn read(&self, listed: &ListedEntry) -> Result<Vec<OperationRecord>, StoreError> {
        let read = async {
            let resolved = self.reader.fetch(listed, &self.schedule).await?;
            Ok(OperationRecord::from_resolved(&resolved))
        };
        match mutants::caught(AssertUnwindSafe(read).catch_unwind().await) {
            Ok(read) => read,
            Err(panic) => {
                let resolved = self.reader.judge_panic(listed, &panic_message(&*panic))?;
                Ok(OperationRecord::from_resolved(&resolved))
            }
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

/// What a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it says nothing").to_owned()
}
