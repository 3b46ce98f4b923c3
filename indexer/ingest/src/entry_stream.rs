//! The walk of the log: sealed entries, listed once, fetched concurrently, delivered in token order.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream, stream::BoxStream};
use tidemark_catalog::LogCursor;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, LogFloorSource, LogReader, MemoryBudget, MemoryShare, ParameterSchedule, Token};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::{error::IngestError, mutants, options::IngestOptions, record::OperationRecord, retry::StageRetrier, task};

/// Attempts to read a listed entry that is absent before it counts as deleted.
const ABSENT_ATTEMPTS: u32 = 5;
/// Attempts of the tail to read an entry, about a minute of pauses, before the stream ends with the error.
pub(crate) const TAIL_ATTEMPTS: u32 = 8;
/// Entries that wait for the pipeline, besides the bounds on their memory.
const MAX_WAITING_ENTRIES: usize = 512;
/// The part of the memory for entries that one chunk may take: while it is added to a segment, the next ones are read.
const CHUNKS_IN_MEMORY: u64 = 4;

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
    /// What the records take in memory.
    pub(crate) bytes: u64,
    memory: Option<MemoryShare>,
}

impl FetchedEntry {
    /// The entry with the share that its reading was charged to.
    fn new(second: StoreSecond, records: Vec<OperationRecord>, memory: MemoryShare) -> Self {
        Self { second, records, bytes: memory.bytes(), memory: Some(memory) }
    }

    /// Returns the share of the memory for entries; the caller bounds what it keeps.
    pub(crate) fn release_memory(&mut self) {
        self.memory = None;
    }

    #[cfg(test)]
    pub(crate) fn of_second(second: StoreSecond, records: Vec<OperationRecord>, bytes: u64) -> Self {
        Self { second, records, bytes, memory: None }
    }
}

/// An entry that was tried.
#[derive(Debug)]
pub(crate) struct TriedEntry {
    pub(crate) listed: ListedEntry,
    /// Why it cannot be read, if it cannot.
    pub(crate) failure: Option<StoreError>,
}

/// Lists and fetches the entries of a log. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EntryReader {
    reader: LogReader,
    retrier: StageRetrier,
    fetches: usize,
    chunk: usize,
    entry_memory: u64,
}

impl EntryReader {
    pub(crate) fn new(reader: LogReader, retrier: StageRetrier, options: &IngestOptions) -> Self {
        Self {
            reader,
            retrier,
            fetches: options.fetches.max(1),
            chunk: options.chunk.max(1),
            entry_memory: options.entry_memory,
        }
    }

    /// The same for entries that a clean-up may have come past: see [`LogReader::with_floor`].
    pub(crate) fn with_floor(self, floor: Arc<dyn LogFloorSource>) -> Self {
        Self { reader: self.reader.with_floor(floor), ..self }
    }

    /// The log's reader.
    pub(crate) fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// The entries of the seconds from `from` up to, not including, `to`.
    pub(crate) fn list(&self, from: StoreSecond, to: StoreSecond) -> EntryListing {
        self.reader.list(from, to)
    }

    /// The entries after `token` of the seconds before `to`.
    pub(crate) fn list_after(&self, token: Token, to: StoreSecond) -> EntryListing {
        self.reader.list_after(token, to)
    }

    /// The oldest entry that is not below `cursor`, by one listing.
    pub(crate) async fn oldest(&self, cursor: LogCursor) -> Result<Option<Token>, StoreError> {
        let mut listing = self.list(cursor.second(), StoreSecond::KSUID_END.next());
        Ok(listing.try_next().await?.map(|listed| listed.token))
    }

    /// Fetches the entries of `listing`; no entry is skipped. A fetch that fails `attempts` times ends the stream, so that
    /// what precedes it can be published and the listing begun again.
    pub(crate) fn fetch(&self, listing: EntryListing, schedule: &ParameterSchedule, attempts: u32) -> EntryStream {
        self.stream(listing, schedule, FetchPolicy::Each { attempts })
    }

    /// Fetches those of the unreadable `entries` that can be read by now. The others are left out and not judged again.
    pub(crate) fn fetch_readable(&self, entries: Vec<ListedEntry>, schedule: &ParameterSchedule) -> EntryStream {
        self.stream(listing_of(entries), schedule, FetchPolicy::Readable)
    }

    /// Tries each entry of `listing` up to `attempts` times and drops what it gives. In token order, with the failure of those that
    /// cannot be read; an error is one of the listing.
    pub(crate) fn try_each(
        &self,
        listing: EntryListing,
        schedule: &ParameterSchedule,
        attempts: u32,
    ) -> impl stream::Stream<Item = Result<TriedEntry, StoreError>> + use<> {
        let fetcher = Arc::new(self.fetcher(schedule, FetchPolicy::Each { attempts }));
        let admitted = self.admit(&fetcher, listing);
        let tries = admitted.map_ok(move |(listed, memory)| {
            let fetcher = fetcher.clone();
            async move { Ok(TriedEntry { listed, failure: fetcher.fetch(listed, memory).await.err() }) }
        });
        tries.try_buffered(self.fetches)
    }

    fn stream(&self, listing: EntryListing, schedule: &ParameterSchedule, policy: FetchPolicy) -> EntryStream {
        let (sender, receiver) = mpsc::channel(MAX_WAITING_ENTRIES);
        let entries = self.fetch_concurrently(Arc::new(self.fetcher(schedule, policy)), listing);
        let task = tokio::spawn(forward(entries, sender));
        let chunk = ChunkLimits { records: self.chunk, bytes: self.entry_memory / CHUNKS_IN_MEMORY };
        EntryStream { receiver, chunk, end: None, _task: AbortOnDropHandle::new(task) }
    }

    fn fetcher(&self, schedule: &ParameterSchedule, policy: FetchPolicy) -> EntryFetcher {
        let (reader, retrier) = (self.reader.clone(), self.retrier.clone());
        EntryFetcher { reader, schedule: schedule.clone(), retrier, policy }
    }

    /// The entries of `listing`, each with its share of the memory for entries.
    fn admit(
        &self,
        fetcher: &Arc<EntryFetcher>,
        listing: EntryListing,
    ) -> impl stream::Stream<Item = Result<(ListedEntry, MemoryShare), StoreError>> + use<> {
        let (budget, admission) = (MemoryBudget::new(self.entry_memory), fetcher.clone());
        // Admitted in token order, so that the entry that the consumer waits for always gets what it needs.
        listing.and_then(move |listed| {
            let (budget, admission) = (budget.clone(), admission.clone());
            async move {
                let memory = admission.reader.admit(&listed, &admission.schedule, &budget).await;
                Ok((listed, memory))
            }
        })
    }

    fn fetch_concurrently(
        &self,
        fetcher: Arc<EntryFetcher>,
        listing: EntryListing,
    ) -> impl stream::Stream<Item = Result<FetchedEntry, StoreError>> + use<> {
        self.admit(&fetcher, listing)
            .map_ok(move |(listed, memory)| {
                // A task of its own continues while the batch before it is being indexed; a mere future would not.
                let fetcher = fetcher.clone();
                let task = AbortOnDropHandle::new(tokio::spawn(async move { fetcher.fetch(listed, memory).await }));
                task::join(task)
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

/// A listing of entries that are known.
pub(crate) fn listing_of(entries: Vec<ListedEntry>) -> EntryListing {
    stream::iter(entries.into_iter().map(Ok)).boxed()
}

/// What the task that fetches sends.
enum StreamItem {
    Entry(FetchedEntry),
    /// Everything that the listing showed was sent. A channel that closes without it is no end of the listing.
    End,
}

/// When a chunk is full.
#[derive(Clone, Copy, Debug)]
struct ChunkLimits {
    records: usize,
    bytes: u64,
}

/// Entries in token order; ends after the first error.
pub(crate) struct EntryStream {
    receiver: mpsc::Receiver<Result<StreamItem, StoreError>>,
    chunk: ChunkLimits,
    /// How it ended, once it has.
    end: Option<Result<(), StoreError>>,
    _task: AbortOnDropHandle<()>,
}

impl EntryStream {
    /// The next entries: at least one, and as many as are there within a chunk; none at the end of the listing. What
    /// precedes an error comes before it.
    pub(crate) async fn next_chunk(&mut self) -> Result<Vec<FetchedEntry>, IngestError> {
        let mut entries: Vec<FetchedEntry> = Vec::new();
        if self.end.is_none() {
            let mut next = self.receiver.recv().await;
            if mutants::is_broken_off(next.is_none()) {
                return Err(IngestError::EntryStreamBroken);
            }
            let (mut records, mut bytes) = (0, 0);
            while let Some(item) = next {
                match item {
                    Ok(StreamItem::Entry(entry)) => {
                        (records, bytes) = (records + entry.records.len(), bytes + entry.bytes);
                        entries.push(entry);
                    }
                    Ok(StreamItem::End) => self.end = Some(Ok(())),
                    Err(error) => self.end = Some(Err(error)),
                }
                let full = records >= self.chunk.records || bytes >= self.chunk.bytes;
                next = if full || self.end.is_some() { None } else { self.receiver.try_recv().ok() };
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

/// Which entries are fetched.
#[derive(Clone, Copy, Debug)]
enum FetchPolicy {
    /// Each one: it fails after so many attempts.
    Each { attempts: u32 },
    /// Those that can be read at the first attempt.
    Readable,
}

/// Fetches single entries.
#[derive(Debug)]
struct EntryFetcher {
    reader: LogReader,
    schedule: ParameterSchedule,
    retrier: StageRetrier,
    policy: FetchPolicy,
}

impl EntryFetcher {
    /// The records of the entry, with the share that they are charged to; `None` where it is left out.
    async fn fetch(&self, listed: ListedEntry, memory: MemoryShare) -> Result<Option<FetchedEntry>, StoreError> {
        let records = match self.policy {
            FetchPolicy::Each { attempts } => self.fetch_each(&listed, attempts, &memory).await?,
            FetchPolicy::Readable => self.fetch_readable(&listed, &memory).await,
        };
        Ok(records.map(|records| FetchedEntry::new(listed.token.second(), records, memory)))
    }

    /// `None` if the entry was deleted after it was listed.
    async fn fetch_each(
        &self,
        listed: &ListedEntry,
        most: u32,
        memory: &MemoryShare,
    ) -> Result<Option<Vec<OperationRecord>>, StoreError> {
        let mut attempts = self.retrier.attempts("reading an entry");
        let mut attempt = 0;
        loop {
            attempt += 1;
            let read = match self.read(listed, memory).await {
                Err(_) if attempt > ABSENT_ATTEMPTS.min(most - 1) && self.is_deleted(listed).await => Ok(None),
                read => read.map(Some),
            };
            match read {
                Ok(records) => {
                    attempts.succeed();
                    return Ok(records);
                }
                Err(error) if attempt >= most => return Err(error),
                Err(error) => attempts.fail(&error).await,
            }
        }
    }

    /// `None` while the entry is still refused, or panics when it is read.
    async fn fetch_readable(&self, listed: &ListedEntry, memory: &MemoryShare) -> Option<Vec<OperationRecord>> {
        let read = async {
            let resolved = self.reader.fetch_again(listed, &self.schedule, memory).await?;
            Ok::<_, StoreError>(OperationRecord::charged(resolved, memory).await)
        };
        let read = mutants::caught(AssertUnwindSafe(read).catch_unwind().await);
        read.ok().and_then(Result::ok)
    }

    /// One attempt. A panic is a fault of this entry: it is judged as one that the store refuses.
    async fn read(&self, listed: &ListedEntry, memory: &MemoryShare) -> Result<Vec<OperationRecord>, StoreError> {
        let read = async {
            let resolved = self.reader.fetch_within(listed, &self.schedule, memory).await?;
            Ok(OperationRecord::charged(resolved, memory).await)
        };
        match mutants::caught(AssertUnwindSafe(read).catch_unwind().await) {
            Ok(read) => read,
            Err(panic) => {
                let resolved = self.reader.judge_panic(listed, panic).await?;
                Ok(OperationRecord::charged(resolved, memory).await)
            }
        }
    }

    async fn is_deleted(&self, listed: &ListedEntry) -> bool {
        // An entry whose reading panics is there.
        let looked_up = self.reader.catch_panic(listed.token, self.reader.lookup(listed.token, &self.schedule)).await;
        let deleted = matches!(looked_up, Ok(None));
        if deleted {
            error!(token = %listed.token, "the entry was deleted after it was listed; the index does not contain it; allow only cleanup to delete from a log");
        }
        deleted
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use tidemark_store::{Create, Store};
    use tidemark_wal::{Log, LogParameters};

    use super::*;

    const BEGIN: u64 = 1_800_000_000;

    /// A log of entries of 1 000 empty operations each, a second apart.
    async fn log_of_groups(entries: u64) -> Log {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let body = format!("{{\"tidemark\":1,\"ops\":[{}{{}}]}}", "{},".repeat(999));
        for second in 0..entries {
            let key = Token::first_of(StoreSecond::from_unix(BEGIN + second)).to_string();
            assert!(matches!(log.entries.create(&key, body.clone().into(), &BTreeMap::new()).await, Create::Committed));
        }
        log
    }

    fn stream(log: &Log, options: &IngestOptions) -> EntryStream {
        let reader = EntryReader::new(LogReader::new(log), StageRetrier::new().0, options);
        let schedule = ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_secs(10)));
        reader.fetch(reader.list(StoreSecond::default(), StoreSecond::KSUID_END), &schedule, 1)
    }

    async fn seconds_in_chunks(stream: &mut EntryStream, most: usize) -> Vec<u64> {
        let mut seconds = Vec::new();
        loop {
            let chunk = stream.next_chunk().await.unwrap();
            let records: usize = chunk.iter().map(|entry| entry.records.len()).sum();
            assert!(records < most + 1000, "{records} records at once");
            if chunk.is_empty() {
                return seconds;
            }
            seconds.extend(chunk.iter().map(|entry| entry.second.unix() - BEGIN));
        }
    }

    #[tokio::test]
    async fn records_are_counted_in_what_waits_and_in_what_is_resolved_at_once() {
        let log = log_of_groups(100).await;
        let options = IngestOptions { entry_memory: 8 << 20, ..IngestOptions::default() };
        let mut entries = stream(&log, &options);
        let (mut waiting, mut looks) = (0, 0);
        while waiting < 2 || looks < 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            waiting = entries.receiver.len().max(waiting);
            looks += 1;
        }
        assert!((2..8).contains(&waiting), "{waiting} entries of more than 1 MiB of records each wait");
        assert_eq!(seconds_in_chunks(&mut entries, options.chunk).await, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn entries_that_are_larger_than_all_of_the_memory_pass_one_by_one() {
        let log = log_of_groups(10).await;
        let mut entries = stream(&log, &IngestOptions { entry_memory: 1, ..IngestOptions::default() });
        assert_eq!(seconds_in_chunks(&mut entries, 1).await, (0..10).collect::<Vec<_>>());
    }
}
