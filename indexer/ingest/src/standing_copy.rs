//! Copies operations as they stand, with the outcomes that were recorded, and gives them seqs of another generation.
//!
//! Nothing is decided again: of what publishing works out only which committed operation of an entity is its newest is found again,
//! among those that are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use tidemark_catalog::{CopyRequest, FIRST_SEQ, Manifest, SegmentMeta};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

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
    corrections: CorrectionSource,
}

/// What says which records were corrected.
enum CorrectionSource {
    /// The sidecars.
    Marks(RecordMarks),
    /// The records themselves: of those of one operation the last one stands.
    Records(Arc<dyn IndexLookup>),
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
        let records = RecordedOperations::new(engine, source, FIRST_SEQ).of_seconds(seconds);
        Ok(Self { records, corrections: CorrectionSource::Marks(marks) })
    }

    /// Those of the generation of `source` as far as `segments` have its records, in the order of their ends: some seqs may be lacking, and
    /// some there more than once. Neither another segment nor a sidecar is read.
    pub(crate) async fn of_segments(
        engine: &Arc<dyn IndexEngine>,
        source: &Manifest,
        segments: &[SegmentMeta],
        seconds: &RangeInclusive<StoreSecond>,
    ) -> Result<Self, EngineError> {
        let is_read = |segment: &&SegmentMeta| {
            segment.first.second() <= *seconds.end() && *seconds.start() <= segment.last.second()
        };
        let segments = segments.iter().filter(is_read).cloned().collect();
        let held = Manifest { next_seq: source.next_seq, segments, ..Manifest::new(source.generation.clone()) };
        let records = RecordedOperations::new(engine, &held, FIRST_SEQ);
        Ok(Self { records, corrections: CorrectionSource::Records(engine.open(&held).await?) })
    }

    /// The next operations, by seq; `None` after the last ones.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, EngineError> {
        let mut records = self.records.next_chunk().await?;
        if records.is_empty() {
            return Ok(None);
        }
        match &self.corrections {
            CorrectionSource::Marks(marks) => records.retain(|record| !marks.corrected.contains(record.seq)),
            CorrectionSource::Records(lookup) => retain_last(&mut records, &**lookup).await?,
        }
        Ok(Some(records))
    }
}

/// Leaves out of `records` those of which `lookup` has a later one of the same operation.
async fn retain_last(records: &mut Vec<OperationRecord>, lookup: &dyn IndexLookup) -> Result<(), EngineError> {
    let tokens: BTreeSet<Token> = records.iter().map(|record| record.token).collect();
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut last = BTreeMap::new();
    for (token, recorded) in tokens.iter().zip(lookup.recorded_outcomes(&tokens).await?) {
        for one in recorded {
            let seq = last.entry((*token, one.op)).or_insert(one.seq);
            *seq = one.seq.max(*seq);
        }
    }
    records.retain(|record| last.get(&(record.token, record.op)).is_none_or(|last| *last <= record.seq));
    Ok(())
}

/// How far a copier had come.
pub(crate) struct CopyCheckpoint {
    draft: Manifest,
    added: CopyRequest,
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

    /// What was flushed by now.
    pub(crate) fn checkpoint(&self) -> CopyCheckpoint {
        CopyCheckpoint { draft: self.draft.clone(), added: self.added.clone() }
    }

    /// Forgets what was added after `checkpoint`.
    pub(crate) async fn go_back(&mut self, checkpoint: CopyCheckpoint) -> Result<(), EngineError> {
        self.lookup = self.engine.open(&checkpoint.draft).await?;
        self.resolver.clear();
        self.batch = begin(&self.uploader, checkpoint.draft.next_seq, &self.options);
        (self.draft, self.added) = (checkpoint.draft, checkpoint.added);
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
