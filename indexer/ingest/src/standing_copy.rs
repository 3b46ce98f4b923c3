//! Copies operations as they stand, with the outcomes that were recorded, and gives them seqs of another generation.
//!
//! Nothing is decided again: of what publishing works out only which committed operation of an entity is its newest is found again,
//! among those that are there.

use std::{ops::RangeInclusive, sync::Arc};

use tidemark_catalog::{CopyRequest, FIRST_SEQ, Manifest};
use tidemark_store::StoreSecond;

use crate::{
    batch::{BatchLimits, RecordBatch, UploadedBatch},
    corrected_totals::CorrectedTotals,
    engine::{EngineError, IndexEngine, IndexLookup, RecordMarks},
    options::IngestOptions,
    record::OperationRecord,
    record_resolver::RecordResolver,
    recorded_operations::RecordedOperations,
    segment_upload::SegmentUploader,
};

/// The operations of one manifest as they stand: every record that no correction replaced.
pub(crate) struct StandingOperations {
    records: RecordedOperations,
    marks: RecordMarks,
}

impl StandingOperations {
    /// Those of `source`. Segments without an entry of these `seconds` are left out; the others come whole.
    pub(crate) async fn open(
        engine: &Arc<dyn IndexEngine>,
        source: &Manifest,
        seconds: &RangeInclusive<StoreSecond>,
    ) -> Result<Self, EngineError> {
        let mut marks = RecordMarks::default();
        for sidecar in &source.sidecars {
            marks.merge(&engine.read_marks(sidecar).await?);
        }
        Ok(Self { records: RecordedOperations::new(engine, source, FIRST_SEQ).of_seconds(seconds), marks })
    }

    /// The next operations, by seq; `None` after the last ones.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, EngineError> {
        let mut records = self.records.next_chunk().await?;
        if records.is_empty() {
            return Ok(None);
        }
        records.retain(|record| !self.marks.corrected.contains(record.seq));
        Ok(Some(records))
    }
}

/// Adds operations to a generation, of which `draft` is the latest manifest with what was added and not published.
pub(crate) struct StandingCopier {
    engine: Arc<dyn IndexEngine>,
    uploader: SegmentUploader,
    options: IngestOptions,
    draft: Manifest,
    lookup: Arc<dyn IndexLookup>,
    resolver: RecordResolver,
    batch: RecordBatch,
    /// What was added since it was last taken.
    added: CopyRequest,
}

impl StandingCopier {
    /// Continues `manifest`, the latest one.
    pub(crate) async fn new(
        engine: &Arc<dyn IndexEngine>,
        uploader: SegmentUploader,
        options: &IngestOptions,
        manifest: &Manifest,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            lookup: engine.open(manifest).await?,
            engine: engine.clone(),
            batch: begin(&uploader, manifest.next_seq, options),
            uploader,
            options: options.clone(),
            draft: manifest.clone(),
            resolver: RecordResolver::default(),
            added: CopyRequest::after(manifest),
        })
    }

    /// Adds operations.
    pub(crate) async fn add(&mut self, operations: Vec<OperationRecord>) -> Result<(), EngineError> {
        if operations.is_empty() {
            return Ok(());
        }
        self.batch.push_recorded(operations, &mut self.resolver, &*self.lookup).await
    }

    /// Whether so many were added that they should be flushed.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.len() >= self.options.batch_records
    }

    /// Uploads what was added, and opens the index as if it had it: it need not be remembered any more.
    pub(crate) async fn flush(&mut self) -> Result<(), EngineError> {
        if self.batch.len() == 0 {
            return Ok(());
        }
        let UploadedBatch { segments, seqs, marks, corrected } = self.batch.upload().await?;
        let mut copied = CopyRequest { records: seqs.end - seqs.start, segments, ..CopyRequest::after(&self.draft) };
        if !marks.is_empty() {
            // Of operations as they stand none corrects another.
            let CorrectedTotals { counts, digest } = corrected;
            copied.sidecars.push(self.uploader.upload_sidecar(&marks, seqs, counts, digest).await?);
        }
        self.draft = self.draft.draft(&copied).map_err(|rejected| EngineError::Refused {
            what: "copy operations".to_owned(),
            why: rejected.to_string(),
        })?;
        self.added.records += copied.records;
        self.added.segments.append(&mut copied.segments);
        self.added.sidecars.append(&mut copied.sidecars);
        self.lookup = self.engine.open(&self.draft).await?;
        self.resolver.clear();
        self.batch = begin(&self.uploader, self.draft.next_seq, &self.options);
        Ok(())
    }

    /// What a manifest would say of all that was flushed.
    pub(crate) fn into_draft(self) -> Manifest {
        self.draft
    }

    /// What was flushed since this was last called; it is to be published next.
    pub(crate) fn take(&mut self) -> CopyRequest {
        let next = CopyRequest::after(&self.draft);
        std::mem::replace(&mut self.added, next)
    }
}

fn begin(uploader: &SegmentUploader, first_seq: u64, options: &IngestOptions) -> RecordBatch {
    RecordBatch::new(uploader, first_seq, BatchLimits::new(options)).rereading()
}
