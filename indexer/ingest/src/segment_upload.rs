//! Records into uploaded segments: a batch has as many as its size needs, and at most two are in memory.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{Generation, ObjectKind, ObjectName, RecordCounts, SegmentMeta, SetDigest, SidecarMeta};
use tidemark_store::{Entropy, Store, StoreError, StoreSecond};
use tidemark_wal::Token;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    engine::{
        EngineError, IndexEngine, PackedSegment, RecordMarks, RecordStats, SegmentBuilder, SegmentFile, UnfitRecords,
    },
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
        let SegmentStats { records: RecordStats { counts, digest, .. }, first, last, entry_times, seq } = stats;
        let PackedSegment { file, size, checksum, format, documents } = packed;
        let unsettled = counts.unsettled();
        let segment = SegmentMeta {
            key,
            size,
            checksum,
            format,
            digest,
            first,
            last,
            entry_times,
            seq,
            counts,
            unsettled,
            documents,
        };
        self.engine.segment_uploaded(&segment, file).await;
        segment
    }

    /// Uploads `marks`, which the records with the seqs `causes` caused; retries until it succeeds. `counts` and `digest` are
    /// those of the corrected records.
    pub(crate) async fn upload_sidecar(
        &self,
        marks: &RecordMarks,
        causes: Range<u64>,
        counts: RecordCounts,
        digest: SetDigest,
    ) -> Result<SidecarMeta, EngineError> {
        let body = self.engine.pack_marks(marks)?;
        let sidecar = SidecarMeta {
            key: self.new_key(ObjectKind::Sidecar),
            size: body.len() as u64,
            checksum: hex::encode(Sha256::digest(&body)),
            causes,
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
    /// The store times of their entries.
    pub(crate) entry_times: Range<StoreSecond>,
    /// Their seqs.
    pub(crate) seq: Range<u64>,
}

impl SegmentStats {
    /// The stats of no records, in front of `first`.
    fn before(first: &OperationRecord) -> Self {
        let (token, entry_time) = (first.token, first.decision.entry_time);
        Self {
            records: RecordStats::default(),
            first: token,
            last: token,
            entry_times: entry_time..entry_time.next(),
            seq: first.seq..first.seq,
        }
    }

    /// The stats of neighbouring segments compacted into one; `None` of none.
    pub(crate) fn compacted(segments: &[SegmentMeta]) -> Option<Self> {
        let (start, end) = (segments.first()?, segments.last()?);
        Some(Self {
            records: segments.iter().map(RecordStats::of).sum(),
            first: segments.iter().map(|segment| segment.first).min()?,
            last: segments.iter().map(|segment| segment.last).max()?,
            entry_times: segments.iter().map(|segment| segment.entry_times.start).min()?
                ..segments.iter().map(|segment| segment.entry_times.end).max()?,
            seq: start.seq.start..end.seq.end,
        })
    }

    /// The stats of the records in `packed`, whose first one has `first_seq`, as they are read from it.
    async fn read(packed: &PackedSegment, first_seq: u64, engine: &dyn IndexEngine) -> Result<Self, EngineError> {
        let read = engine.stats(packed, &[packed.documents]).await?;
        let records: RecordStats = read.into_iter().sum();
        let Some(((first, last), (earliest, latest))) = records.tokens.zip(records.entry_times) else {
            let (what, why) = ("read a new segment".to_owned(), "it holds no record".to_owned());
            return Err(EngineError::Refused { what, why });
        };
        let (entry_times, seq) = (earliest..latest.next(), first_seq..first_seq + packed.documents);
        Ok(Self { records, first, last, entry_times, seq })
    }

    fn record(&mut self, records: &[OperationRecord]) {
        for record in records {
            let entry_time = record.decision.entry_time;
            self.records.insert(&record.set_element(), entry_time);
            self.entry_times.start = self.entry_times.start.min(entry_time);
            self.entry_times.end = self.entry_times.end.max(entry_time.next());
            self.first = self.first.min(record.token);
            self.last = self.last.max(record.token);
            self.seq.end = record.seq + 1;
        }
    }
}

/// Writes the segments of one batch: one is filled while the one before it is packed and uploaded.
pub(crate) struct BatchSegmentWriter {
    uploader: SegmentUploader,
    max_memory: usize,
    /// Whether the stats of each segment are read from it again before it is uploaded.
    rereads: bool,
    filling: Option<FillingSegment>,
    uploading: Option<AbortOnDropHandle<Result<SegmentMeta, EngineError>>>,
    uploaded: Vec<SegmentMeta>,
}

struct FillingSegment {
    builder: Box<dyn SegmentBuilder>,
    /// The stats of everything that was added.
    stats: SegmentStats,
    /// Whether they are read from the segment: the builder gave some of it back, or what was written is to be proven.
    reread: bool,
}

impl FillingSegment {
    /// Adds records that continue the seqs of those before.
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        self.stats.record(&records);
        self.builder.add(records).await
    }
}

impl BatchSegmentWriter {
    /// A writer without segments; a segment that takes `max_memory` bytes is finished, and the next one begins.
    pub(crate) fn new(uploader: &SegmentUploader, max_memory: usize) -> Self {
        let uploader = uploader.clone();
        Self { uploader, max_memory, rereads: false, filling: None, uploading: None, uploaded: Vec::new() }
    }

    /// The same, which reads the stats of each segment from it before it is uploaded: what a manifest says of it is then what it holds.
    pub(crate) fn rereading(self) -> Self {
        Self { rereads: true, ..self }
    }

    /// Adds records that continue the seqs of those before.
    pub(crate) async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        let Some(first) = records.first() else { return Ok(()) };
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => self.begin(first).await?,
        };
        filling.add(records).await?;
        let full = filling.builder.size() >= self.max_memory;
        self.filling = Some(filling);
        if full { self.roll().await } else { Ok(()) }
    }

    /// All segments so far, uploaded, in seq order.
    pub(crate) async fn finish(&mut self) -> Result<Vec<SegmentMeta>, EngineError> {
        // Once more where a segment had no room for all.
        while self.filling.is_some() {
            self.roll().await?;
        }
        self.join_upload().await?;
        Ok(self.uploaded.clone())
    }

    /// An empty segment for records from `first` on.
    async fn begin(&mut self, first: &OperationRecord) -> Result<FillingSegment, EngineError> {
        let builder = match self.uploader.engine.builder() {
            // What is uploaded takes less room afterwards.
            Err(EngineError::NoRoom { .. }) if self.uploading.is_some() => {
                self.join_upload().await?;
                self.uploader.engine.builder()
            }
            builder => builder,
        };
        Ok(FillingSegment { builder: builder?, stats: SegmentStats::before(first), reread: self.rereads })
    }

    /// Starts to pack and upload the segment that is being filled. What it has no room for is in the next one afterwards.
    async fn roll(&mut self) -> Result<(), EngineError> {
        // Waiting for the upload before it bounds memory: one segment uploads, one is filled, none waits.
        self.join_upload().await?;
        let Some(mut filling) = self.filling.take() else { return Ok(()) };
        let mut unfit = filling.builder.flush().await?;
        if unfit.is_none() {
            self.upload(filling);
            return Ok(());
        }
        let mut alone = false;
        while let Some(UnfitRecords { records, why }) = unfit {
            let Some(first) = records.first() else { break };
            if first.seq > filling.stats.seq.start {
                filling.reread = true;
                self.upload(filling);
                self.join_upload().await?;
            } else if alone {
                return Err(why);
            } else {
                // Its files take room.
                drop(filling);
            }
            // No other segment of this batch takes room any more.
            alone = true;
            filling = self.begin(first).await?;
            filling.add(records).await?;
            unfit = filling.builder.flush().await?;
        }
        self.filling = Some(filling);
        Ok(())
    }

    /// Packs and uploads a segment in a task.
    fn upload(&mut self, FillingSegment { builder, stats, reread }: FillingSegment) {
        let uploader = self.uploader.clone();
        let upload = async move {
            let packed = builder.finish().await?;
            let stats =
                if reread { SegmentStats::read(&packed, stats.seq.start, uploader.engine()).await? } else { stats };
            Ok(uploader.upload_segment(packed, stats).await)
        };
        self.uploading = Some(AbortOnDropHandle::new(tokio::spawn(upload)));
    }

    async fn join_upload(&mut self) -> Result<(), EngineError> {
        if let Some(upload) = self.uploading.take() {
            self.uploaded.push(task::join(upload).await?);
        }
        Ok(())
    }
}
