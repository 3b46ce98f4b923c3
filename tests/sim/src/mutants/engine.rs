//! The mutant whose body is in an engine.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_catalog::{Manifest, RootChain, SegmentMeta, SidecarMeta};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, IndexLookup, PackedSegment, RecordMarks, RecordStats, SegmentBuilder},
};
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule};

/// `OutcomeDecidedAgain`: an engine that merges segments with the outcomes that the store shows now.
pub(crate) struct RedecidingEngine {
    inner: Arc<dyn IndexEngine>,
    reader: LogReader,
    root: RootChain,
    /// What the manifest says of the inputs of the merge before.
    merged: Mutex<Vec<RecordStats>>,
}

impl RedecidingEngine {
    pub(crate) fn new(inner: Arc<dyn IndexEngine>, reader: LogReader, root: RootChain) -> Self {
        Self { inner, reader, root, merged: Mutex::default() }
    }

    async fn decide_again(&self, record: &mut OperationRecord, schedule: &ParameterSchedule) {
        let listed = ListedEntry { token: record.token, time: record.decision.entry_time, size: record.size };
        let Ok(resolved) = self.reader.fetch(&listed, schedule).await else { return };
        if let Some(op) = resolved.ops.get(record.op as usize) {
            record.decision = op.decision.clone();
        }
    }
}

#[async_trait]
impl IndexEngine for RedecidingEngine {
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        self.inner.builder()
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        self.inner.open(manifest).await
    }

    async fn merge(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        *self.merged.lock() = inputs.iter().map(RecordStats::of).collect();
        let Ok(Some(schedule)) = self.root.parameters().await else { return self.inner.merge(inputs).await };
        let mut builder = self.inner.builder()?;
        for segment in inputs {
            for mut record in self.inner.records(segment, segment.seq.clone()).await? {
                self.decide_again(&mut record, &schedule).await;
                builder.add(vec![record]).await?;
            }
        }
        builder.finish().await
    }

    fn max_merge_bytes(&self) -> u64 {
        self.inner.max_merge_bytes()
    }

    /// What the inputs were: a bug that decides outcomes again would sum them up as it likes, too.
    async fn stats(&self, _: &PackedSegment, _: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        Ok(self.merged.lock().clone())
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        self.inner.records(segment, seqs).await
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        self.inner.pack_marks(marks)
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        self.inner.read_marks(sidecar).await
    }
}
