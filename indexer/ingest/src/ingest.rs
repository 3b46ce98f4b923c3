//! The role of the writer: waits for it, works, gives it up.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::{IndexChain, RootChain, WriterIdentity, WriterLease, heartbeat};
use tidemark_store::{Clock, Entropy};
use tidemark_wal::{Log, LogReader, ReaderLimits};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use crate::{
    engine::IndexEngine,
    error::IngestError,
    index::Shelf,
    indexer::Indexer,
    status::{IngestRole, IngestStatus, Reporter},
    tail,
};

/// How long a process that ends tries to give the role up.
const RELEASE: Duration = Duration::from_secs(10);

/// How much an ingest takes on at once. The defaults keep a backfill below 512 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestOptions {
    /// Entries that are fetched at the same time.
    pub fetches: usize,
    /// Bytes of entries that are in memory at the same time; at least 1 MiB.
    pub entry_memory: u64,
    /// Entries that are resolved with one question to the index.
    pub chunk: usize,
    /// A batch with so many records is published at the next boundary between two seconds.
    pub batch_records: u64,
    /// A batch of this age is published at the next boundary between two seconds.
    pub batch_age: Duration,
    /// A segment that takes more bytes of memory is finished; two are in memory at most.
    pub segment_memory: usize,
    /// Whether to compact.
    pub compaction: bool,
    /// What is read of entries and descriptors.
    pub limits: ReaderLimits,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            fetches: 64,
            entry_memory: 32 << 20,
            chunk: 512,
            batch_records: 100_000,
            batch_age: Duration::from_secs(10),
            segment_memory: 64 << 20,
            compaction: true,
            limits: ReaderLimits::default(),
        }
    }
}

/// Tails a log into an index.
#[derive(Clone)]
pub struct Ingest {
    /// The log.
    pub log: Log,
    /// The process's clock of that log: its probes are the writer's heartbeat.
    pub clock: Clock,
    /// The log's root chain, which has parameters already.
    pub root: RootChain,
    /// The chain of the index's generation; the index's objects live in its store.
    pub chain: IndexChain,
    /// What builds and reads segments in that store.
    pub engine: Arc<dyn IndexEngine>,
    /// Who this process is.
    pub identity: WriterIdentity,
    /// How much it takes on at once.
    pub options: IngestOptions,
    /// For the names of objects.
    pub entropy: Entropy,
    /// Where it says how it is.
    pub status: watch::Sender<IngestStatus>,
}

impl Ingest {
    /// Waits for the writer's role, then keeps the index up to date until `stop`, and gives the role up.
    ///
    /// Stores that fail are reported and tried again. An error ends the process that gets it, without any cleaning up:
    /// above all when another writer took over, or when the outcome of a publication is unknown. The future may be
    /// dropped at any time; that is no different from a crash.
    pub async fn run(self, stop: CancellationToken) -> Result<(), IngestError> {
        let reporter = Reporter::new(self.status.clone());
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(None),
            writer = self.take_over(reporter.clone()) => writer.map(Some),
        };
        let ended = match answer {
            Ok(Some(writer_lease)) => self.write(writer_lease, &reporter, &stop).await,
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        reporter.role(IngestRole::Ended);
        ended
    }

    /// Stands by until the role is free.
    async fn take_over(&self, reporter: Reporter) -> Result<WriterLease, IngestError> {
        let mut pause = tail::FIRST_PAUSE;
        loop {
            let heartbeats = &self.log.entries;
            let waits = |waiting| reporter.waits(&waiting);
            let acquired = self.chain.acquire(self.identity.clone(), &self.clock, heartbeats, waits).await;
            match acquired.map_err(IngestError::from) {
                Ok(writer_lease) => return Ok(writer_lease),
                Err(failure) if failure.is_retryable() => {
                    reporter.trouble("taking the writer's role", &failure);
                    pause = tail::rest(pause).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn write(
        &self,
        writer_lease: WriterLease,
        reporter: &Reporter,
        stop: &CancellationToken,
    ) -> Result<(), IngestError> {
        reporter.role(IngestRole::Writer);
        reporter.manifest(writer_lease.manifest());
        let clock = self.clock.clone();
        let beat = AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&clock).await }));
        let mut indexer = self.indexer(writer_lease, reporter);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = indexer.work() => ended,
        };
        drop(beat);
        ended?;
        // A publication that was broken off is either part of the chain or not: releasing builds on what is there.
        if !matches!(timeout(RELEASE, indexer.writer_lease.release()).await, Ok(Ok(()))) {
            warn!("the writer's role could not be given up: the next writer waits until this one's silence is noticed");
        }
        Ok(())
    }

    fn indexer(&self, writer_lease: WriterLease, reporter: &Reporter) -> Indexer {
        let shelf = Shelf {
            store: self.chain.index().clone(),
            engine: self.engine.clone(),
            generation: self.chain.generation().clone(),
            epoch: writer_lease.epoch(),
            entropy: self.entropy.clone(),
            reporter: reporter.clone(),
        };
        let reader = LogReader::new(&self.log, self.options.limits);
        Indexer::new(self.clock.clone(), self.root.clone(), reader, writer_lease, shelf, self.options.clone())
    }
}
