//! Records into uploaded segments: a batch has as many as its size needs, and at most two are in memory.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{Generation, ObjectKind, ObjectName, RecordCounts, SegmentMeta, SetDigest, SidecarMeta};
use tidemark_store::{Entropy, Store, StoreError};
use tidemark_wal::Token;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    engine::{EngineError, IndexEngine, PackedSegment, RecordMarks, RecordStats, SegmentBuilder, SegmentFile},
    record::OperationRecord,
    retry::StageRetrier,
    task,
};

/// Names and uploads the objects of one writer's epoch. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SegmentUploader {
    store: Store,
    engine: Arc<dyn IndexEngine>,
    generation: Generation,
    epoch: u64,
    entropy: Entropy,
    retrier: StageRetrier,
}

impl SegmentUploader {
    /// An uploader into `store`, which is the index's own, of objects that bear `generation` and `epoch` in their names.
    pub(crate) fn new(
        store: Store,
        engine: Arc<dyn IndexEngine>,
        (generation, epoch): (Generation, u64),
        entropy: Entropy,
        retrier: StageRetrier,
    ) -> Self {
        Self { store, engine, generation, epoch, entropy, retrier }
    }

    /// New objects bear a later epoch of the same writer from now on.
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// What builds and reads the segments.
    pub(crate) fn engine(&self) -> &dyn IndexEngine {
        &*self.engine
    }

    /// Uploads a segment; retries until it succeeds.
    pub(crate) async fn upload_segment(&self, packed: PackedSegment, stats: SegmentStats) -> SegmentMeta {
        let key = self.new_key(ObjectKind::Segment);
        self.upload(&key, &packed.file).await;
        let SegmentStats { records: RecordStats { counts, digest, .. }, first, last, seq } = stats;
        let PackedSegment { file, size, checksum, documents } = packed;
        let segment = SegmentMeta { key, size, checksum, digest, first, last, seq, counts, documents };
        self.engine.segment_uploaded(&segment, file).await;
        segment
    }

    /// Uploads `marks`; retries until it succeeds. `counts` and `digest` are those of the corrected records.
    pub(crate) async fn upload_sidecar(
        &self,
        marks: &RecordMarks,
        counts: RecordCounts,
        digest: SetDigest,
    ) -> Result<SidecarMeta, EngineError> {
        let body = self.engine.pack_marks(marks)?;
        let sidecar = SidecarMeta {
            key: self.new_key(ObjectKind::Sidecar),
            size: body.len() as u64,
            checksum: hex::encode(Sha256::digest(&body)),
            corrected: marks.corrected.len(),
            outdated: marks.outdated.len(),
            counts,
            digest,
        };
        self.upload(&sidecar.key, &SegmentFile::Memory(body)).await;
        Ok(sidecar)
    }

    fn new_key(&self, kind: ObjectKind) -> String {
        ObjectName::new(&self.generation, kind, self.epoch, &self.entropy).to_string()
    }

    async fn upload(&self, key: &str, file: &SegmentFile) {
        self.retrier.until_ok("uploading to the index", || self.put(key, file)).await;
    }

    async fn put(&self, key: &str, file: &SegmentFile) -> Result<(), StoreError> {
        match file {
            SegmentFile::Memory(body) => self.store.put(key, Bytes::clone(body)).await,
            SegmentFile::File(file) => self.store.put_file(key, &file.path).await,
        }
    }
}

/// What a manifest says of a segment that is not uploaded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentStats {
    /// Its records.
    pub(crate) records: RecordStats,
    /// Their smallest token.
    pub(crate) first: Token,
    /// Their largest token.
    pub(crate) last: Token,
    /// Their seqs.
    pub(crate) seq: Range<u64>,
}

impl SegmentStats {
    /// The stats of no records, in front of `first`.
    fn before(first: &OperationRecord) -> Self {
        Self { records: RecordStats::default(), first: first.token, last: first.token, seq: first.seq..first.seq }
    }

    /// The stats of neighbouring segments merged into one; `None` of none.
    pub(crate) fn merged(segments: &[SegmentMeta]) -> Option<Self> {
        let (start, end) = (segments.first()?, segments.last()?);
        Some(Self {
            records: segments.iter().map(RecordStats::of).sum(),
            first: segments.iter().map(|segment| segment.first).min()?,
            last: segments.iter().map(|segment| segment.last).max()?,
            seq: start.seq.start..end.seq.end,
        })
    }

    fn record(&mut self, records: &[OperationRecord]) {
        for record in records {
            let decision = &record.decision;
            self.records.insert(record.token, record.op, decision.outcome, decision.evidence);
            self.first = self.first.min(record.token);
            self.last = self.last.max(record.token);
            self.seq.end = record.seq + 1;
        }
    }
}

/// Writes the segments of one batch: one is filled while the one before it is packed and uploaded.
pub(crate) struct SegmentWriter {
    uploader: SegmentUploader,
    max_memory: usize,
    filling: Option<FillingSegment>,
    uploading: Option<AbortOnDropHandle<Result<SegmentMeta, EngineError>>>,
    uploaded: Vec<SegmentMeta>,
}

struct FillingSegment {
    builder: Box<dyn SegmentBuilder>,
    stats: SegmentStats,
}

impl SegmentWriter {
    /// A writer without segments; a segment that takes `max_memory` bytes is finished, and the next one begins.
    pub(crate) fn new(uploader: &SegmentUploader, max_memory: usize) -> Self {
        Self { uploader: uploader.clone(), max_memory, filling: None, uploading: None, uploaded: Vec::new() }
    }

    /// Adds records that continue the seqs of those before.
    pub(crate) async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        let Some(first) = records.first() else { return Ok(()) };
        let filling = match &mut self.filling {
            Some(filling) => filling,
            empty => {
                let builder = self.uploader.engine.builder()?;
                empty.insert(FillingSegment { builder, stats: SegmentStats::before(first) })
            }
        };
        filling.stats.record(&records);
        filling.builder.add(records).await?;
        if filling.builder.size() >= self.max_memory {
            self.roll().await?;
        }
        Ok(())
    }

    /// All segments, uploaded, in seq order.
    pub(crate) async fn finish(mut self) -> Result<Vec<SegmentMeta>, EngineError> {
        self.roll().await?;
        self.join_upload().await?;
        Ok(self.uploaded)
    }

    /// Starts to pack and upload the segment that is being filled.
    async fn roll(&mut self) -> Result<(), EngineError> {
        // Waiting for the upload before it bounds memory: one segment uploads, one is filled, none waits.
        self.join_upload().await?;
        if let Some(FillingSegment { builder, stats }) = self.filling.take() {
            let uploader = self.uploader.clone();
            let upload = async move {
                let packed = builder.finish().await?;
                Ok(uploader.upload_segment(packed, stats).await)
            };
            self.uploading = Some(AbortOnDropHandle::new(tokio::spawn(upload)));
        }
        Ok(())
    }

    async fn join_upload(&mut self) -> Result<(), EngineError> {
        if let Some(upload) = self.uploading.take() {
            self.uploaded.push(task::join(upload).await?);
        }
        Ok(())
    }
}
