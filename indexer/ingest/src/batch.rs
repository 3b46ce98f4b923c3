//! A batch: sealed entries from the cursor on that are published together.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use tidemark_catalog::{BodyDigest, SegmentMeta, SetElement};
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Outcome, ParameterSchedule, Token};
use tokio::time::Instant;

use crate::{
    corrected_totals::CorrectedTotals,
    engine::{EngineError, IndexLookup, RecordMarks},
    options::IngestOptions,
    record::OperationRecord,
    record_resolver::RecordResolver,
    segment_upload::{BatchSegmentWriter, SegmentUploader},
};

/// How many batches of records are remembered at most before they can be looked up.
const UNOPENED_BATCHES: u64 = 2;

/// Records that are published together, with the marks that they cause.
pub(crate) struct RecordBatch {
    segments: BatchSegmentWriter,
    seqs: Range<u64>,
    marks: RecordMarks,
    corrected: CorrectedTotals,
    oldest: Option<StoreSecond>,
    newest: Option<StoreSecond>,
    is_intact: bool,
    begun: Instant,
    limits: BatchLimits,
}

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    max_records: u64,
    max_age: Duration,
    segment_memory: usize,
}

impl BatchLimits {
    pub(crate) fn new(options: &IngestOptions) -> Self {
        let IngestOptions { batch_records, batch_age: max_age, segment_memory, .. } = *options;
        Self { max_records: batch_records, max_age, segment_memory }
    }

    /// Records of a batch after which what it has uploaded is opened beside the published index: only a second with more entries
    /// than a batch should have gets there. Asked of limits that are not halved.
    pub(crate) fn max_unopened(self) -> u64 {
        self.max_records.saturating_mul(UNOPENED_BATCHES)
    }

    /// With `halvings` times half as many records.
    pub(crate) fn halved(self, halvings: u32) -> Self {
        Self { max_records: (self.max_records >> halvings).max(1), ..self }
    }
}

/// A record that a correction replaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PredecessorRecord {
    pub(crate) seq: u64,
    pub(crate) outcome: Outcome,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) body: Option<BodyDigest>,
}

/// Predecessors by token and op.
pub(crate) type PredecessorMap = BTreeMap<(Token, u32), PredecessorRecord>;

/// What a batch has, all of it uploaded.
pub(crate) struct UploadedBatch {
    pub(crate) segments: Vec<SegmentMeta>,
    pub(crate) seqs: Range<u64>,
    pub(crate) marks: RecordMarks,
    pub(crate) corrected: CorrectedTotals,
}

impl RecordBatch {
    /// An empty batch whose first record gets `first_seq`.
    pub(crate) fn new(uploader: &SegmentUploader, first_seq: u64, limits: BatchLimits) -> Self {
        Self {
            segments: BatchSegmentWriter::new(uploader, limits.segment_memory),
            seqs: first_seq..first_seq,
            marks: RecordMarks::default(),
            corrected: CorrectedTotals::default(),
            oldest: None,
            newest: None,
            is_intact: true,
            begun: Instant::now(),
            limits,
        }
    }

    /// The second of the oldest entry in it.
    pub(crate) fn oldest(&self) -> Option<StoreSecond> {
        self.oldest
    }

    /// The second of the newest entry in it.
    pub(crate) fn newest(&self) -> Option<StoreSecond> {
        self.newest
    }

    /// Whether to publish it before an entry of a later second is added.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limits.max_records || (self.len() > 0 && self.begun.elapsed() >= self.limits.max_age)
    }

    /// How many records it has.
    pub(crate) fn len(&self) -> u64 {
        self.seqs.end - self.seqs.start
    }

    /// The same, whose segments' stats are read from them before they are uploaded.
    pub(crate) fn rereading(self) -> Self {
        Self { segments: self.segments.rereading(), ..self }
    }

    /// Numbers `records`, resolves them against the index and the batch so far by the log's parameters, and adds them. Where the index cannot be read
    /// the batch stays as it is.
    pub(crate) async fn push(
        &mut self,
        mut records: Vec<OperationRecord>,
        resolver: &mut RecordResolver,
        lookup: &dyn IndexLookup,
        schedule: &ParameterSchedule,
    ) -> Result<(), EngineError> {
        let seqs = self.number(&mut records);
        let marks = resolver.resolve(&mut records, lookup, schedule).await?;
        self.add(records, seqs, &marks).await
    }

    /// As [`Self::push`], of records whose outcomes were recorded before.
    pub(crate) async fn push_recorded(
        &mut self,
        mut records: Vec<OperationRecord>,
        resolver: &mut RecordResolver,
        lookup: &dyn IndexLookup,
    ) -> Result<(), EngineError> {
        let seqs = self.number(&mut records);
        let marks = resolver.resolve_entities(&records, lookup).await?;
        self.add(records, seqs, &marks).await
    }

    /// Gives `records` the next seqs. Returns those of the batch with them.
    fn number(&self, records: &mut [OperationRecord]) -> Range<u64> {
        let mut seqs = self.seqs.clone();
        for record in records {
            record.seq = seqs.end;
            seqs.end += 1;
        }
        seqs
    }

    async fn add(
        &mut self,
        records: Vec<OperationRecord>,
        seqs: Range<u64>,
        marks: &RecordMarks,
    ) -> Result<(), EngineError> {
        // From here on the batch has the records, or is of no use.
        self.is_intact = false;
        self.seqs = seqs;
        self.marks.merge(marks);
        for second in records.iter().map(|record| record.token.second()) {
            self.oldest = Some(self.oldest.map_or(second, |oldest| oldest.min(second)));
            self.newest = self.newest.max(Some(second));
        }
        self.segments.add(records).await?;
        self.is_intact = true;
        Ok(())
    }

    /// Whether it can be published: it has all records of every push that succeeded, and no part of another.
    pub(crate) fn is_intact(&self) -> bool {
        self.is_intact
    }

    /// Marks the record that one of this batch corrects.
    pub(crate) fn mark_corrected(&mut self, (token, op): (Token, u32), predecessor: &PredecessorRecord) {
        let PredecessorRecord { seq, outcome, evidence, body } = *predecessor;
        if self.marks.corrected.insert(seq) {
            self.corrected.counts.add(outcome);
            self.corrected.digest.insert(&SetElement { token, op, outcome, evidence, body });
        }
    }

    /// Uploads what is left of the segments. What is added later goes to further ones.
    pub(crate) async fn upload(&mut self) -> Result<UploadedBatch, EngineError> {
        self.is_intact = false;
        let segments = self.segments.finish().await?;
        self.is_intact = true;
        Ok(UploadedBatch { segments, seqs: self.seqs.clone(), marks: self.marks.clone(), corrected: self.corrected })
    }
}
