//! An engine whose cache folder has only so much room.

use std::{io, sync::Arc};

use async_trait::async_trait;
use tidemark_catalog::{Manifest, SegmentMeta};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, IndexLookup, PackedSegment, SegmentBuilder, UnfitRecords},
    engine_decorator::EngineDecorator,
};

use crate::world::SimWorld;

/// The folder that is named in errors.
const FOLDER: &str = "cache";

/// Fails where the engine inside would take more room than the world's disks have.
pub(crate) struct LimitedDiskEngine {
    inner: Arc<dyn IndexEngine>,
    world: SimWorld,
}

impl LimitedDiskEngine {
    /// Over `inner`.
    pub(crate) fn new(inner: Arc<dyn IndexEngine>, world: &SimWorld) -> Self {
        Self { inner, world: world.clone() }
    }
}

/// Fails if `needed` bytes are more than there is room for.
fn reserve(world: &SimWorld, needed: u64, mark: &str) -> Result<(), EngineError> {
    let bound = world.room();
    if needed <= bound {
        return Ok(());
    }
    world.simulated_store.mark(mark);
    Err(EngineError::NoRoom { folder: FOLDER.to_owned(), needed, bound })
}

#[async_trait]
impl EngineDecorator for LimitedDiskEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &*self.inner
    }

    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        reserve(&self.world, 1, "a disk had no room for a batch")?;
        Ok(Box::new(LimitedDiskBuilder { inner: self.inner.builder()?, world: self.world.clone() }))
    }

    /// Segments that do not fit are read where they are; on a full disk not even their lists can be kept.
    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        if self.world.room() == 0 {
            self.world.simulated_store.mark("a disk was full when segments were opened");
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(EngineError::Disk { path: FOLDER.to_owned(), source });
        }
        self.inner.open(manifest).await
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let needed = inputs.iter().map(|segment| segment.size).sum();
        reserve(&self.world, needed, "a disk had no room for a compaction")?;
        self.inner.compact(inputs).await
    }
}

/// A segment that is filled on such a disk.
struct LimitedDiskBuilder {
    inner: Box<dyn SegmentBuilder>,
    world: SimWorld,
}

#[async_trait]
impl SegmentBuilder for LimitedDiskBuilder {
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        self.inner.add(records).await?;
        reserve(&self.world, self.inner.size() as u64, "a disk had no room for a batch")
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    async fn flush(&mut self) -> Result<Option<UnfitRecords>, EngineError> {
        self.inner.flush().await
    }

    async fn finish(self: Box<Self>) -> Result<PackedSegment, EngineError> {
        let packed = self.inner.finish().await?;
        reserve(&self.world, packed.size, "a disk had no room for a batch")?;
        Ok(packed)
    }
}
