//! Engines over another one, which change a part of what it does: tests and the simulation disturb an engine with them.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use roaring::RoaringTreemap;
use tidemark_catalog::{Manifest, SegmentMeta, SidecarMeta};

use crate::{
    engine::{
        EngineError, IndexEngine, IndexLookup, PackedSegment, RecordMarks, RecordPlace, RecordStats, SegmentBuilder,
        SegmentFile,
    },
    record::OperationRecord,
};

/// An [`IndexEngine`] that does what another one does, except for the methods that it implements itself.
#[async_trait]
pub trait EngineDecorator: Send + Sync + 'static {
    /// The other engine.
    fn inner(&self) -> &dyn IndexEngine;

    /// See [`IndexEngine::builder`].
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        self.inner().builder()
    }

    /// See [`IndexEngine::open`].
    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        self.inner().open(manifest).await
    }

    /// See [`IndexEngine::format`].
    fn format(&self) -> u32 {
        self.inner().format()
    }

    /// See [`IndexEngine::compact`].
    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        self.inner().compact(inputs).await
    }

    /// See [`IndexEngine::max_compaction_bytes`].
    fn max_compaction_bytes(&self) -> u64 {
        self.inner().max_compaction_bytes()
    }

    /// See [`IndexEngine::stats`].
    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        self.inner().stats(packed, parts).await
    }

    /// See [`IndexEngine::records`].
    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        self.inner().records(segment, seqs).await
    }
}

#[async_trait]
impl<D: EngineDecorator> IndexEngine for D {
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        EngineDecorator::builder(self)
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        EngineDecorator::open(self, manifest).await
    }

    fn format(&self) -> u32 {
        EngineDecorator::format(self)
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        EngineDecorator::compact(self, inputs).await
    }

    fn max_compaction_bytes(&self) -> u64 {
        EngineDecorator::max_compaction_bytes(self)
    }

    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        EngineDecorator::stats(self, packed, parts).await
    }

    async fn verified_stats(
        &self,
        segment: &SegmentMeta,
        groups: Arc<[RoaringTreemap]>,
    ) -> Result<Vec<RecordStats>, EngineError> {
        self.inner().verified_stats(segment, groups).await
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        EngineDecorator::records(self, segment, seqs).await
    }

    async fn places(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<RecordPlace>, EngineError> {
        self.inner().places(segment, seqs).await
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        self.inner().pack_marks(marks)
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        self.inner().read_marks(sidecar).await
    }

    async fn segment_uploaded(&self, segment: &SegmentMeta, file: SegmentFile) {
        self.inner().segment_uploaded(segment, file).await;
    }
}
