//! The process's part in an index: waits for the writer's lease, runs the pipeline, releases the lease.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::{
    AcquireError, CatalogError, GarbageCollector, IndexChain, Manifest, PublishError, RootChain, TransactionRejected,
    WriterIdentity, WriterLease, heartbeat,
};
use tidemark_store::{Entropy, StoreClock};
use tidemark_wal::{Log, LogReader};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use crate::{
    batch::BatchLimits,
    engine::IndexEngine,
    entry_stream::EntryReader,
    error::IngestError,
    garbage_passes::collect_garbage,
    keep_report::report_keeps,
    options::IngestOptions,
    pipeline::IngestPipeline,
    publisher::IndexPublisher,
    retry::StageRetrier,
    segment_upload::SegmentUploader,
    status::{IngestRole, IngestStatus, IngestStatusTracker},
};

/// How long a process that ends tries to release the lease.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tails a log into an index.
#[derive(Clone)]
pub struct LogIngester {
    /// The log.
    pub log: Log,
    /// The process's clock of that log: its probes are the writer's heartbeat.
    pub clock: StoreClock,
    /// The log's root chain, which has parameters already.
    pub root: RootChain,
    /// The chain of the index's generation; the index's objects live in its store.
    pub chain: IndexChain,
    /// What builds and reads segments in that store.
    pub engine: Arc<dyn IndexEngine>,
    /// Who this process is.
    pub identity: WriterIdentity,
    /// Limits on memory and concurrency.
    pub options: IngestOptions,
    /// For the names of objects.
    pub entropy: Entropy,
    /// Where the status is written.
    pub status: watch::Sender<IngestStatus>,
}

impl LogIngester {
    /// Waits for the writer's lease, then keeps the index up to date until `stop`, and releases the lease.
    ///
    /// Stores that fail are reported and retried. An error ends the ingest, without any cleaning up: above all when another
    /// writer took over, or when the outcome of a publication is unknown. The future may be dropped at any time; that is no
    /// different from a crash.
    pub async fn run(self, stop: CancellationToken) -> Result<(), IngestError> {
        let tracker = IngestStatusTracker::new(self.status.clone());
        let (retrier, events) = StageRetrier::new();
        let ended = tokio::select! {
            // The last events of the stages reach the status before their end does. Without `biased` tokio draws the order at random,
            // not from the simulation's seed: every `select!` of the crates that the simulation runs has it.
            biased;
            never = tracker.follow(events) => match never {},
            ended = self.acquire_and_write(&retrier, &tracker, &stop) => ended,
        };
        tracker.set_role(IngestRole::Ended);
        ended
    }

    async fn acquire_and_write(
        &self,
        retrier: &StageRetrier,
        tracker: &IngestStatusTracker,
        stop: &CancellationToken,
    ) -> Result<(), IngestError> {
        let writer_lease = tokio::select! {
            // A process that is asked to stop does not take a lease that becomes free at the same moment.
            biased;
            () = stop.cancelled() => return Ok(()),
            acquired = self.acquire(retrier, tracker) => acquired?,
        };
        // Boxed: the future holds the whole pipeline.
        Box::pin(self.write(writer_lease, retrier, tracker, stop)).await
    }

    /// Stands by until the lease is free.
    async fn acquire(&self, retrier: &StageRetrier, tracker: &IngestStatusTracker) -> Result<WriterLease, IngestError> {
        let mut attempts = retrier.attempts("acquiring the writer's lease");
        loop {
            let (heartbeats, on_wait) = (&self.log.entries, |waiting| tracker.set_waiting(&waiting));
            let acquired = self.chain.acquire(self.identity.clone(), &self.clock, heartbeats, on_wait).await;
            match acquired.map_err(IngestError::from) {
                Ok(writer_lease) => {
                    attempts.succeed();
                    return Ok(writer_lease);
                }
                Err(failure) if failure.is_retryable() => attempts.fail(&failure).await,
                Err(failure) => return Err(self.failure_or_switch(failure).await),
            }
        }
    }

    /// What a failure means: a writer that was fenced by a switch to another generation goes on in that one.
    async fn failure_or_switch(&self, failure: IngestError) -> IngestError {
        let is_refused = matches!(
            failure,
            IngestError::Publish(
                PublishError::Fenced { .. } | PublishError::Rejected(TransactionRejected::Closed { .. })
            ) | IngestError::Acquire(AcquireError::Chain(CatalogError::Rejected(TransactionRejected::Closed { .. })))
                | IngestError::Root(CatalogError::Rejected(TransactionRejected::NotRegistered { .. }))
        );
        if !is_refused {
            return failure;
        }
        // Where it cannot be read, the failure says enough.
        let Ok(Some(latest)) = self.chain.latest().await else { return failure };
        let Manifest { closed, holder, generation, .. } = latest.state;
        let is_followed = closed.is_some_and(|end| end.generation.is_some());
        let is_switched = match &failure {
            // The process that fenced this one may have released the role by now.
            IngestError::Publish(PublishError::Fenced { epoch, .. }) => {
                self.chain.is_fenced_by_switch(*epoch).await.unwrap_or_default()
            }
            _ => holder.is_some_and(|holder| holder.identity.is_switch()),
        };
        if is_followed || is_switched { IngestError::Switching { generation } } else { failure }
    }

    async fn write(
        &self,
        writer_lease: WriterLease,
        retrier: &StageRetrier,
        tracker: &IngestStatusTracker,
        stop: &CancellationToken,
    ) -> Result<(), IngestError> {
        tracker.set_role(IngestRole::Writer);
        let clock = self.clock.clone();
        let heartbeats = AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&clock).await }));
        let garbage = AbortOnDropHandle::new(tokio::spawn(self.clone().collect_garbage(tracker.clone())));
        let Self { chain, root, clock, entropy, .. } = self.clone();
        let keeps = async move { report_keeps(&chain, &root, &clock, &entropy).await };
        let mut keeps = AbortOnDropHandle::new(tokio::spawn(keeps));
        let mut pipeline = self.pipeline(writer_lease, retrier, tracker);
        tokio::select! {
            // A process that is asked to stop releases its lease, whatever else ends at the same moment.
            biased;
            () = stop.cancelled() => {}
            ended = pipeline.run() => {
                if let Err(failure) = ended {
                    return Err(self.failure_or_switch(failure).await);
                }
            }
            Ok(unregistered) = &mut keeps => return Err(self.failure_or_switch(unregistered.into()).await),
        }
        drop((heartbeats, garbage, keeps));
        // A publication that was interrupted is in the chain or not; either way the release continues from its latest record.
        if !matches!(timeout(RELEASE_TIMEOUT, Box::pin(pipeline.release())).await, Ok(Ok(()))) {
            warn!("the writer's lease was not released; other replicas wait until it expires");
        }
        Ok(())
    }

    /// Collects the index's garbage until it is dropped.
    async fn collect_garbage(self, tracker: IngestStatusTracker) {
        let Ok(Some(log)) = self.root.id().await else { return };
        let collector = || GarbageCollector::new(self.chain.index(), &log, self.entropy.clone());
        collect_garbage(collector, &self.identity, &self.clock, &self.entropy, &tracker).await;
    }

    fn pipeline(
        &self,
        writer_lease: WriterLease,
        retrier: &StageRetrier,
        tracker: &IngestStatusTracker,
    ) -> IngestPipeline {
        let uploader = SegmentUploader::new(
            self.chain.index().clone(),
            self.engine.clone(),
            (self.chain.generation().clone(), writer_lease.epoch()),
            self.entropy.clone(),
            retrier.clone(),
        );
        let limits = BatchLimits::new(&self.options);
        let publisher = IndexPublisher::new(writer_lease, uploader, limits, tracker.clone(), retrier.clone());
        let reader = LogReader::new(&self.log).with_file_names(self.options.file_names);
        let entries = EntryReader::new(reader, retrier.clone(), &self.options);
        let clock_and_root = (self.clock.clone(), self.root.clone());
        IngestPipeline::new(clock_and_root, entries, publisher, self.options.compaction, tracker.clone())
    }
}
