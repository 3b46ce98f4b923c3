//! The mutants whose body is in an engine.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tidemark_catalog::{RootChain, SegmentMeta};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, PackedSegment, RecordStats, SegmentBuilder, UnfitRecords},
    engine_decorator::EngineDecorator,
};
use tidemark_store::Store;
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule};

/// `OutcomeDecidedAgain`: an engine that compacts segments with the outcomes that the store shows now.
pub(crate) struct RedecidingEngine {
    inner: Arc<dyn IndexEngine>,
    reader: LogReader,
    root: RootChain,
    /// What the manifest says of the inputs of the compaction before.
    compacted: Mutex<Vec<RecordStats>>,
}

impl RedecidingEngine {
    pub(crate) fn new(inner: Arc<dyn IndexEngine>, reader: LogReader, root: RootChain) -> Self {
        Self { inner, reader, root, compacted: Mutex::default() }
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
impl EngineDecorator for RedecidingEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &*self.inner
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        *self.compacted.lock() = inputs.iter().map(RecordStats::of).collect();
        let Ok(Some(schedule)) = self.root.parameters().await else { return self.inner.compact(inputs).await };
        let mut builder = self.inner.builder()?;
        for segment in inputs {
            for mut record in self.inner.records(segment, segment.seq.clone()).await? {
                self.decide_again(&mut record, &schedule).await;
                builder.add(vec![record]).await?;
            }
        }
        builder.finish().await
    }

    /// What the inputs were: a bug that decides outcomes again would sum them up as it likes, too.
    async fn stats(&self, _: &PackedSegment, _: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        Ok(self.compacted.lock().clone())
    }
}

/// `UnverifiedCompactionInput`: an engine that compacts whatever the disk gives, as long as it can be parsed.
pub(crate) struct UnverifyingEngine {
    inner: Arc<dyn IndexEngine>,
    store: Store,
}

impl UnverifyingEngine {
    /// Over `inner`, a model, whose segments are in `store`.
    pub(crate) fn new(inner: Arc<dyn IndexEngine>, store: Store) -> Self {
        Self { inner, store }
    }

    async fn records_as_they_are(&self, key: &str) -> Result<Vec<OperationRecord>, EngineError> {
        let body = self.store.get(key, 1 << 30).await?.and_then(|object| object.body);
        let body = body.ok_or_else(|| EngineError::Gone { key: key.to_owned() })?;
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let records = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
        records.map_err(|error| EngineError::Damaged { key: key.to_owned(), why: error.to_string() })
    }
}

#[async_trait]
impl EngineDecorator for UnverifyingEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &*self.inner
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let mut builder = self.inner.builder()?;
        for segment in inputs {
            builder.add(self.records_as_they_are(&segment.key).await?).await?;
        }
        builder.finish().await
    }
}

/// `FullDiskCutsSegment`: an engine that takes a segment for finished where the disk was full.
pub(crate) struct TruncatingEngine {
    inner: Arc<dyn IndexEngine>,
    unlimited: Arc<dyn IndexEngine>,
}

impl TruncatingEngine {
    /// Over `inner`, whose disk may be full; `unlimited` is the same engine with any room.
    pub(crate) fn new(inner: Arc<dyn IndexEngine>, unlimited: Arc<dyn IndexEngine>) -> Self {
        Self { inner, unlimited }
    }
}

#[async_trait]
impl EngineDecorator for TruncatingEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &*self.inner
    }

    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        let (inner, fitting) = (self.inner.builder()?, self.unlimited.builder()?);
        Ok(Box::new(TruncatingBuilder { inner, fitting, is_full: false }))
    }
}

struct TruncatingBuilder {
    inner: Box<dyn SegmentBuilder>,
    /// What was added before the disk was full.
    fitting: Box<dyn SegmentBuilder>,
    is_full: bool,
}

#[async_trait]
impl SegmentBuilder for TruncatingBuilder {
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        self.is_full = self.is_full || self.inner.add(records.clone()).await.is_err();
        if self.is_full { Ok(()) } else { self.fitting.add(records).await }
    }

    fn size(&self) -> usize {
        self.fitting.size()
    }

    async fn flush(&mut self) -> Result<Option<UnfitRecords>, EngineError> {
        self.fitting.flush().await
    }

    async fn finish(self: Box<Self>) -> Result<PackedSegment, EngineError> {
        self.fitting.finish().await
    }
}
