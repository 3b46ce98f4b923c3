//! The only way into the index: a batch or a compaction becomes part of a manifest.
//!
//! The order of the writes of a batch: segments, then the sidecar with the marks that the batch causes, then one manifest
//! that names all of them and moves the cursor. A reader therefore sees either all of a batch or nothing.

use std::{ops::Range, sync::Arc, time::Duration};

use tidemark_catalog::{
    CompactionResult, LogCursor, Manifest, PublishError, PublishRequest, SidecarMeta, TransactionRejected, WriterLease,
};
use tidemark_store::StoreSecond;
use tidemark_wal::ParameterSchedule;

use crate::{
    batch::{BatchLimits, RecordBatch, UploadedBatch},
    corrected_totals::CorrectedTotals,
    engine::{EngineError, IndexLookup, RecordMarks},
    error::IngestError,
    mutants,
    record::OperationRecord,
    record_resolver::{IndexQuestion, RecordResolver},
    retry::StageRetrier,
    segment_upload::SegmentUploader,
    status::IngestStatusTracker,
};

/// How often the limit of records in a batch is halved at most: from a hundred thousand to a hundred.
const MAX_HALVINGS: u32 = 10;

/// Publishes in the name of the lease's holder. All that it remembers can be dropped at any time: the chain has it.
pub(crate) struct IndexPublisher {
    writer_lease: WriterLease,
    uploader: SegmentUploader,
    limits: BatchLimits,
    /// Every entry with a token below it had its last look by the audit.
    audited: StoreSecond,
    /// How often the limit of records was halved since a pass succeeded.
    halvings: u32,
    tracker: IngestStatusTracker,
    retrier: StageRetrier,
    /// The published index, once it is open.
    lookup: Option<Arc<dyn IndexLookup>>,
    /// Whether that has records of a batch that is not published yet.
    has_unpublished: bool,
    resolver: RecordResolver,
}

impl IndexPublisher {
    pub(crate) fn new(
        writer_lease: WriterLease,
        uploader: SegmentUploader,
        limits: BatchLimits,
        tracker: IngestStatusTracker,
        retrier: StageRetrier,
    ) -> Self {
        tracker.set_manifest(writer_lease.manifest());
        Self {
            audited: writer_lease.manifest().state.audited,
            writer_lease,
            uploader,
            limits,
            halvings: 0,
            tracker,
            retrier,
            lookup: None,
            has_unpublished: false,
            resolver: RecordResolver::default(),
        }
    }

    /// The manifest that was published last.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.writer_lease.manifest().state
    }

    pub(crate) fn cursor(&self) -> LogCursor {
        self.manifest().cursor
    }

    pub(crate) fn uploader(&self) -> &SegmentUploader {
        &self.uploader
    }

    /// An empty batch, which continues the published seqs.
    pub(crate) fn begin_batch(&self) -> RecordBatch {
        RecordBatch::new(&self.uploader, self.manifest().next_seq, self.limits.halved(self.halvings))
    }

    /// Adds `records` to `batch`, resolved against the published index and the batch so far by the log's parameters.
    pub(crate) async fn add(
        &mut self,
        batch: &mut RecordBatch,
        records: Vec<OperationRecord>,
        schedule: &ParameterSchedule,
    ) -> Result<(), EngineError> {
        if self.resolver.records() >= self.limits.max_unopened() {
            self.open_with(batch).await?;
        }
        let lookup = self.lookup().await?;
        batch.push(records, &mut self.resolver, &*lookup, schedule).await
    }

    /// The published index.
    pub(crate) async fn lookup(&mut self) -> Result<Arc<dyn IndexLookup>, EngineError> {
        if let Some(lookup) = &self.lookup {
            return Ok(lookup.clone());
        }
        let lookup = self.uploader.engine().open(self.manifest()).await?;
        self.lookup = Some(lookup.clone());
        Ok(lookup)
    }

    /// Publishes `batch` with the cursor at `to`, and opens the index that results.
    pub(crate) async fn publish(
        &mut self,
        mut batch: RecordBatch,
        to: StoreSecond,
        horizon: StoreSecond,
    ) -> Result<(), IngestError> {
        let mut uploaded = batch.upload().await?;
        (uploaded.marks, uploaded.corrected) =
            mutants::published_marks(uploaded.marks, uploaded.corrected, &uploaded.seqs);
        let additions = self.additions(uploaded).await?;
        self.commit(PublishRequest { to: LogCursor(to), horizon, audited: self.audited, ..additions }).await?;
        self.tracker.clear_pending();
        self.reopen().await
    }

    /// Replaces the inputs of `compaction` by its output, and opens the index that results. Does nothing if the manifest no
    /// longer has all inputs.
    pub(crate) async fn adopt(&mut self, compaction: CompactionResult) -> Result<(), IngestError> {
        match self.writer_lease.adopt(compaction).await {
            Ok(latest) => self.tracker.set_manifest(latest),
            Err(PublishError::Rejected(refused)) => {
                tracing::info!(%refused, "the index changed during a compaction; planning it again");
                return Ok(());
            }
            Err(failure) => return Err(failure.into()),
        }
        self.reopen().await
    }

    /// Goes on in the next epoch, so that uploads that were never published become garbage. Nothing may be on its way into the
    /// index: no batch, no compaction.
    pub(crate) async fn raise_epoch(&mut self) -> Result<(), IngestError> {
        let latest = self.writer_lease.raise_epoch().await?;
        self.tracker.set_manifest(latest);
        self.uploader.set_epoch(self.writer_lease.epoch());
        Ok(())
    }

    /// Publications say from now on how far the audit has come.
    pub(crate) fn set_audited(&mut self, audited: StoreSecond) {
        self.audited = audited;
    }

    /// By how much the audit has come on since that was published.
    pub(crate) fn audited_since_published(&self) -> Duration {
        self.audited.since(self.manifest().audited)
    }

    /// Forgets the records that were added to batches and are not published.
    pub(crate) fn discard_unpublished(&mut self) {
        self.resolver.clear();
        if std::mem::take(&mut self.has_unpublished) {
            self.lookup = None;
        }
    }

    /// What the index did not answer since records were last discarded, if anything.
    pub(crate) fn take_unanswered(&mut self) -> Option<IndexQuestion> {
        self.resolver.take_unanswered()
    }

    /// Batches are half as long from now on.
    pub(crate) fn lower_batch_limit(&mut self) {
        self.halvings = (self.halvings + 1).min(MAX_HALVINGS);
    }

    /// Batches are as long as the options say again.
    pub(crate) fn restore_batch_limit(&mut self) {
        self.halvings = 0;
    }

    /// Releases the lease, so that another process need not wait until it expires.
    pub(crate) async fn release(self) -> Result<(), PublishError> {
        self.writer_lease.release().await
    }

    /// Appends the manifest. Only failures after which nothing was written are retried, with the same publication: after an
    /// unknown outcome a second append could publish the batch twice.
    async fn commit(&mut self, publication: PublishRequest) -> Result<(), IngestError> {
        let mut attempts = self.retrier.attempts("publishing");
        loop {
            match self.writer_lease.publish(publication.clone()).await.map_err(IngestError::from) {
                Ok(latest) => {
                    self.tracker.set_manifest(latest);
                    attempts.succeed();
                    return Ok(());
                }
                Err(failure) if failure.is_retryable() => attempts.fail(&failure).await,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Uploads what `batch` has, and opens the published index as if that were part of it: it need not be remembered any more, so
    /// that a second with any number of entries fits in memory. Nothing of it is visible to others.
    async fn open_with(&mut self, batch: &mut RecordBatch) -> Result<(), EngineError> {
        // The engine needs the marks to find an entity's latest commit. This sidecar is garbage once the batch is published with its own.
        let additions = self.additions(batch.upload().await?).await?;
        let unpublished =
            self.manifest().publish(self.writer_lease.epoch(), &additions).map_err(|rejected| unsound(&rejected))?;
        self.lookup = Some(self.uploader.engine().open(&unpublished).await?);
        self.has_unpublished = true;
        self.resolver.clear();
        Ok(())
    }

    /// Adds what `batch` has and moves nothing.
    async fn additions(&self, batch: UploadedBatch) -> Result<PublishRequest, EngineError> {
        let UploadedBatch { segments, seqs, marks, corrected } = batch;
        // Before the manifest: it names the sidecar, and its records must never be visible without the marks they cause.
        let sidecars = self.upload_sidecars(&marks, &seqs, corrected).await?;
        Ok(PublishRequest {
            first_seq: seqs.start,
            records: seqs.end - seqs.start,
            segments,
            sidecars,
            // Only what is not settled is corrected.
            settled: marks.corrected.iter().collect(),
            ..PublishRequest::after(self.manifest())
        })
    }

    async fn upload_sidecars(
        &self,
        marks: &RecordMarks,
        causes: &Range<u64>,
        corrected: CorrectedTotals,
    ) -> Result<Vec<SidecarMeta>, EngineError> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let CorrectedTotals { counts, digest } = corrected;
        Ok(vec![self.uploader.upload_sidecar(marks, causes.clone(), counts, digest).await?])
    }

    /// Opens the index that was just published.
    async fn reopen(&mut self) -> Result<(), IngestError> {
        // The new index contains what the resolver remembers of the published batches.
        (self.lookup, self.has_unpublished) = (None, false);
        self.resolver.clear();
        self.lookup().await?;
        Ok(())
    }
}

/// What a batch has does not continue the index.
fn unsound(rejected: &TransactionRejected) -> EngineError {
    EngineError::Refused { what: "open a batch".to_owned(), why: rejected.to_string() }
}
