//! A builder of segments that a test observes or disturbs.

use async_trait::async_trait;
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, PackedSegment, SegmentBuilder, UnfitRecords},
};

/// Does what `inner` does, and calls `before_add` with the number of records before they are added; its error is that of the call.
pub(crate) struct AddHookBuilder<F> {
    pub(crate) inner: Box<dyn SegmentBuilder>,
    pub(crate) before_add: F,
}

#[async_trait]
impl<F: FnMut(u64) -> Result<(), EngineError> + Send> SegmentBuilder for AddHookBuilder<F> {
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        (self.before_add)(records.len() as u64)?;
        self.inner.add(records).await
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    async fn flush(&mut self) -> Result<Option<UnfitRecords>, EngineError> {
        self.inner.flush().await
    }

    async fn finish(self: Box<Self>) -> Result<PackedSegment, EngineError> {
        self.inner.finish().await
    }
}
