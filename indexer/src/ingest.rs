//! From a log to an index: tail, resolve, index, publish.
//!
//! One process is the writer; others stand by. The writer turns around in rounds. A round starts with one LIST from the
//! cursor; if nothing below the horizon waits there, that was all. Otherwise it reads the store's clock and then the
//! log's parameters, computes the horizon, and *then* lists the sealed seconds from the cursor up to it: the horizon rests
//! on a probe made before the listing. Backfill is the same with more to read.
//!
//! - `tail`: the listing and the fetches, many at a time, handed on in token order. What fails is tried again until it
//!   works; nothing is skipped.
//! - `resolve`: duplicates, and which operation is its entity's newest. Both depend on what came before, so the index
//!   and the batch so far are asked, in token order.
//! - `index`: records into segments, of which a batch has as many as its size needs; uploaded while the next one fills.
//! - `publish`: the sidecar with the marks that the batch causes, then one manifest that names everything and moves the
//!   cursor. A batch ends between two seconds, so that the cursor is exact however many entries a second has.
//! - `audit`: looks again at sealed seconds, and publishes late arrivals as corrections.
//! - `compact`: merges beside the tail; only the writer adopts the result, between two batches.
//!
//! Nothing is held only in memory: a process that starts again continues from the published cursor. What a crash leaves
//! behind are objects that no manifest names. After an unknown outcome nothing is cleaned up; the process ends and its
//! successor reads what came of it.

mod audit;
mod batch;
mod compact;
mod error;
mod index;
mod indexer;
mod publish;
mod rejudge;
mod resolve;
mod status;
mod tail;
#[cfg(test)]
mod tests;
mod tiers;

use std::{sync::Arc, time::Duration};

use tidemark_catalog::{Identity, IndexChain, RootChain, Writership, heartbeat};
use tidemark_wal::{Clock, Entropy, Limits, Log, Reader};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use crate::engine::Engine;
use index::Shelf;
use indexer::Indexer;
use status::Reporter;

pub use error::IngestError;
pub use status::{IndexTotals, IngestStatus, Progress, Role, Trouble};

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
    pub limits: Limits,
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
            limits: Limits::default(),
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
    pub engine: Arc<dyn Engine>,
    /// Who this process is.
    pub identity: Identity,
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
            Ok(Some(ship)) => self.write(ship, &reporter, &stop).await,
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        reporter.role(Role::Ended);
        ended
    }

    /// Stands by until the role is free.
    async fn take_over(&self, reporter: Reporter) -> Result<Writership, IngestError> {
        let mut pause = tail::FIRST_PAUSE;
        loop {
            let beats = &self.log.entries;
            let waits = |waiting| reporter.waits(&waiting);
            let acquired = self.chain.acquire(self.identity.clone(), &self.clock, beats, waits).await;
            match acquired.map_err(IngestError::from) {
                Ok(ship) => return Ok(ship),
                Err(failure) if failure.passes() => {
                    reporter.trouble("taking the writer's role", &failure);
                    pause = tail::rest(pause).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn write(&self, ship: Writership, reporter: &Reporter, stop: &CancellationToken) -> Result<(), IngestError> {
        reporter.role(Role::Writer);
        reporter.manifest(ship.manifest());
        let clock = self.clock.clone();
        let beat = AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&clock).await }));
        let mut indexer = self.indexer(ship, reporter);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = indexer.work() => ended,
        };
        drop(beat);
        ended?;
        // A publication that was broken off is either part of the chain or not: releasing builds on what is there.
        if !matches!(timeout(RELEASE, indexer.ship.release()).await, Ok(Ok(()))) {
            warn!("the writer's role could not be given up: the next writer waits until this one's silence is noticed");
        }
        Ok(())
    }

    fn indexer(&self, ship: Writership, reporter: &Reporter) -> Indexer {
        let shelf = Shelf {
            store: self.chain.index().clone(),
            engine: self.engine.clone(),
            generation: self.chain.generation().clone(),
            epoch: ship.epoch(),
            entropy: self.entropy.clone(),
            reporter: reporter.clone(),
        };
        let reader = Reader::new(&self.log, self.options.limits);
        Indexer::new(self.clock.clone(), self.root.clone(), reader, ship, shelf, self.options.clone())
    }
}
