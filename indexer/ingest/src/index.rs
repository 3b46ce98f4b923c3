//! Records into segments: several can make up one batch, and memory holds two at a time at most.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{Generation, ObjectKind, ObjectName, RecordCounts, SegmentMeta, SetDigest, SidecarMeta};
use tidemark_store::{Entropy, Store};
use tidemark_wal::Token;
use tokio_util::task::AbortOnDropHandle;

use std::{ops::Range, sync::Arc};

use super::{error::IngestError, status::Reporter, tail::rest};
use crate::{
    OperationRecord,
    engine::{EngineError, IndexEngine, PackedSegment, RecordMarks, SegmentBuilder, SegmentFile},
};

/// Where an indexer's objects go, and under which names. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shelf {
    pub(crate) store: Store,
    pub(crate) engine: Arc<dyn IndexEngine>,
    pub(crate) generation: Generation,
    pub(crate) epoch: u64,
    pub(crate) entropy: Entropy,
    pub(crate) reporter: Reporter,
}

/// What a manifest says of a segment beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) digest: SetDigest,
    pub(crate) first: Token,
    pub(crate) last: Token,
    pub(crate) seq: Range<u64>,
    pub(crate) counts: RecordCounts,
}

impl Shelf {
    fn name(&self, kind: ObjectKind) -> String {
        ObjectName::new(&self.generation, kind, self.epoch, &self.entropy).to_string()
    }

    /// Uploads a segment. Goes on until it works; on the way the reporter tells why it does not.
    pub(crate) async fn put_segment(&self, packed: PackedSegment, summary: Summary) -> SegmentMeta {
        let key = self.name(ObjectKind::Segment);
        self.upload(&key, &packed.file).await;
        let Summary { digest, first, last, seq, counts } = summary;
        let PackedSegment { file, size, checksum, documents } = packed;
        let segment = SegmentMeta { key, size, checksum, digest, first, last, seq, counts, documents };
        self.engine.segment_uploaded(&segment, file).await;
        segment
    }

    /// Uploads `marks`. `counts` and `digest` are those of the corrected records.
    pub(crate) async fn put_sidecar(
        &self,
        marks: &RecordMarks,
        counts: RecordCounts,
        digest: SetDigest,
    ) -> Result<SidecarMeta, EngineError> {
        let body = self.engine.pack_marks(marks)?;
        let key = self.name(ObjectKind::Sidecar);
        let sidecar = SidecarMeta {
            key,
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

    async fn upload(&self, key: &str, file: &SegmentFile) {
        let reporter = &self.reporter;
        let mut pause = super::tail::FIRST_PAUSE;
        let mut failed = false;
        loop {
            let uploaded = match file {
                SegmentFile::Memory(body) => self.store.put(key, Bytes::clone(body)).await,
                SegmentFile::File(path) => self.store.put_file(key, path).await,
            };
            match uploaded {
                Ok(()) if failed => return reporter.well(),
                Ok(()) => return,
                Err(failure) => {
                    failed = true;
                    reporter.trouble("uploading to the index", &failure);
                    pause = rest(pause).await;
                }
            }
        }
    }
}

/// The segments of one batch in the making.
pub(crate) struct Segments {
    shelf: Shelf,
    limit: usize,
    open: Option<Open>,
    finishing: Option<AbortOnDropHandle<Result<SegmentMeta, EngineError>>>,
    finished: Vec<SegmentMeta>,
}

struct Open {
    builder: Box<dyn SegmentBuilder>,
    summary: Summary,
}

impl Segments {
    /// None yet; one that takes more than `limit` bytes of memory is finished and the next one begun.
    pub(crate) fn new(shelf: &Shelf, limit: usize) -> Self {
        Self { shelf: shelf.clone(), limit, open: None, finishing: None, finished: Vec::new() }
    }

    /// Adds records that continue the seqs of those before.
    pub(crate) async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), IngestError> {
        let Some(first) = records.first() else { return Ok(()) };
        let open = match &mut self.open {
            Some(open) => open,
            empty => empty.insert(Open { builder: self.shelf.engine.builder()?, summary: Summary::before(first) }),
        };
        open.summary.take(&records);
        open.builder.add(records).await?;
        if open.builder.size() >= self.limit {
            self.roll().await?;
        }
        Ok(())
    }

    /// All segments, uploaded, in seq order.
    pub(crate) async fn finish(mut self) -> Result<Vec<SegmentMeta>, IngestError> {
        self.roll().await?;
        self.settle().await?;
        Ok(self.finished)
    }

    /// Begins to finish the open segment, once the one before it is done.
    async fn roll(&mut self) -> Result<(), IngestError> {
        self.settle().await?;
        if let Some(Open { builder, summary }) = self.open.take() {
            let shelf = self.shelf.clone();
            let finish = async move {
                let packed = builder.finish().await?;
                Ok(shelf.put_segment(packed, summary).await)
            };
            self.finishing = Some(AbortOnDropHandle::new(tokio::spawn(finish)));
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), IngestError> {
        if let Some(task) = self.finishing.take() {
            self.finished.push(super::tail::finished(task).await?);
        }
        Ok(())
    }
}

impl Summary {
    /// The summary of no records, in front of `first`.
    fn before(first: &OperationRecord) -> Self {
        Self {
            digest: SetDigest::default(),
            first: first.token,
            last: first.token,
            seq: first.seq..first.seq,
            counts: RecordCounts::default(),
        }
    }

    fn take(&mut self, records: &[OperationRecord]) {
        for record in records {
            let decision = &record.decision;
            self.digest.insert(record.token, record.op, decision.outcome, decision.evidence);
            self.counts.add(decision.outcome);
            self.first = self.first.min(record.token);
            self.last = self.last.max(record.token);
            self.seq.end = record.seq + 1;
        }
    }

    /// The summary of neighbouring segments taken as one; `None` of none.
    pub(crate) fn of(segments: &[SegmentMeta]) -> Option<Self> {
        let (start, end) = (segments.first()?, segments.last()?);
        Some(Self {
            digest: segments.iter().map(|segment| segment.digest).sum(),
            first: segments.iter().map(|segment| segment.first).min()?,
            last: segments.iter().map(|segment| segment.last).max()?,
            seq: start.seq.start..end.seq.end,
            counts: segments.iter().map(|segment| segment.counts).sum(),
        })
    }
}
