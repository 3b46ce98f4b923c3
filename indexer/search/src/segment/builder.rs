//! Builds a segment and writes it as one bundle.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tantivy::{Index, SegmentReader, SingleSegmentIndexWriter, TantivyDocument};
use tempfile::TempPath;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    bundle::{BundleSummary, BundleWriter},
    disk_budget::{DiskBudget, DiskReservation, RoomUse},
    document::to_document,
    engine_error::{disk, disk_write, not_written, refused},
    filter,
    schema::{SchemaFields, tokenizers},
    temp_dir::TempDirectory,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, LocalFile, PackedSegment, SegmentBuilder, SegmentFile},
};

/// Memory that Tantivy sizes its hash tables for. They grow when a segment needs more.
const WRITER_MEMORY_BYTES: usize = 32 << 20;
/// What an empty segment takes on the disk.
const EMPTY_SEGMENT_BYTES: u64 = 64 << 10;
/// What a record takes on the disk while its segment is built and packed, beside a multiple of its stored form: the terms of
/// its fixed fields.
const RECORD_BYTES: u64 = 1 << 10;
/// Bytes on the disk a byte of a stored record, at most: stored, indexed with positions, and half of that copied.
const DISK_BYTES_PER_STORED_BYTE: u64 = 3;
/// Room is reserved in steps of this size where there is enough.
const ROOM_STEP_BYTES: u64 = 1 << 20;

/// Fills one segment on a blocking thread; documents keep the order in which they come.
pub(crate) struct TantivySegmentBuilder {
    state: BuilderState,
    /// Bytes of memory, or all there are if the disk has no room for further records.
    size: Arc<AtomicUsize>,
}

type WriterResult = Result<Box<SegmentWriter>, EngineError>;

enum BuilderState {
    Idle(Box<SegmentWriter>),
    Busy(JoinHandle<WriterResult>),
    Failed,
}

struct SegmentWriter {
    temp: TempDirectory,
    writer: SingleSegmentIndexWriter<TantivyDocument>,
    fields: Arc<SchemaFields>,
    room: DiskReservation,
    /// How much of the room the records so far need.
    needed: u64,
}

impl TantivySegmentBuilder {
    /// An empty segment with its files in the folder of `budget`.
    pub(crate) fn new(budget: &Arc<DiskBudget>, fields: &Arc<SchemaFields>) -> Result<Self, EngineError> {
        budget.expect_builds();
        let room = budget.require(EMPTY_SEGMENT_BYTES, RoomUse::NewSegment)?;
        let temp = TempDirectory::new(budget.folder()).map_err(|e| disk(budget.folder(), e))?;
        let writer = Index::builder()
            .schema(SchemaFields::schema().0)
            .tokenizers(tokenizers())
            .single_segment_index_writer(temp.clone(), WRITER_MEMORY_BYTES)
            .map_err(|e| not_written("start a segment", &e, budget))?;
        let writer = SegmentWriter { temp, writer, fields: fields.clone(), room, needed: EMPTY_SEGMENT_BYTES };
        Ok(Self { state: BuilderState::Idle(Box::new(writer)), size: Arc::default() })
    }

    async fn idle(&mut self) -> WriterResult {
        match std::mem::replace(&mut self.state, BuilderState::Failed) {
            BuilderState::Idle(inner) => Ok(inner),
            BuilderState::Busy(task) => task.await.map_err(|e| refused("index records", &e))?,
            BuilderState::Failed => Err(refused("continue a segment", &"an earlier call failed")),
        }
    }
}

#[async_trait]
impl SegmentBuilder for TantivySegmentBuilder {
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        let mut inner = self.idle().await?;
        let size = self.size.clone();
        self.state = BuilderState::Busy(spawn_blocking(move || {
            let has_room = inner.add(&records)?;
            let memory = if has_room { inner.writer.mem_usage() } else { usize::MAX };
            size.store(memory, Ordering::Relaxed);
            Ok(inner)
        }));
        Ok(())
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    async fn finish(mut self: Box<Self>) -> Result<PackedSegment, EngineError> {
        let inner = self.idle().await?;
        spawn_blocking(move || {
            let SegmentWriter { temp, writer, fields, room, .. } = *inner;
            let index = writer.finalize().map_err(|e| not_written("finish a segment", &e, room.budget()))?;
            bundle_index(&index, &temp, &fields, room)
        })
        .await
        .map_err(|e| refused("finish a segment", &e))?
    }
}

impl SegmentWriter {
    /// Adds `records`. False if the disk has no room for as many again.
    fn add(&mut self, records: &[OperationRecord]) -> Result<bool, EngineError> {
        let before = self.needed;
        for record in records {
            let stored = serde_json::to_vec(record).map_err(|e| refused("store a record", &e))?;
            self.reserve(RECORD_BYTES + DISK_BYTES_PER_STORED_BYTE * stored.len() as u64)?;
            let doc = to_document(&self.fields, record, &stored);
            let added = self.writer.add_document(doc);
            added.map_err(|e| not_written("index a record", &e, self.room.budget()))?;
        }
        // The records that come next were read already, and the segment is finished only after them.
        let ahead = (self.needed + 2 * (self.needed - before)).saturating_sub(self.room.bytes());
        Ok(self.room.grow(ahead, RoomUse::NewSegment))
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), EngineError> {
        self.needed += bytes;
        let missing = self.needed.saturating_sub(self.room.bytes());
        let fits = missing == 0
            || self.room.grow(missing.max(ROOM_STEP_BYTES), RoomUse::NewSegment)
            || self.room.grow(missing, RoomUse::NewSegment);
        if fits { Ok(()) } else { Err(self.room.budget().no_room(missing)) }
    }
}

/// Writes an index of one segment, which lies in `temp`, as one file beside it, in the bytes of `room`. Blocks.
pub(crate) fn bundle_index(
    index: &Index,
    temp: &TempDirectory,
    fields: &SchemaFields,
    mut room: DiskReservation,
) -> Result<PackedSegment, EngineError> {
    let (documents, filter) = summarize(index, fields)?;
    let (path, written) = write_bundle(temp, documents, &filter).map_err(|e| disk_write(room.budget(), e))?;
    let BundleSummary { size, checksum } = written;
    room.set(size);
    let file = SegmentFile::File(LocalFile { path, room: Box::new(room) });
    Ok(PackedSegment { file, size, checksum, documents })
}

/// The number of documents and the filter. Nothing of the index stays mapped: a mapped file keeps its bytes on the disk when it
/// is removed.
fn summarize(index: &Index, fields: &SchemaFields) -> Result<(u64, Vec<u8>), EngineError> {
    let segments = index.searchable_segments().map_err(|e| refused("read a new segment", &e))?;
    let segment = segments.first().ok_or_else(|| refused("bundle a segment", &"it holds no record"))?;
    let reader = SegmentReader::open(segment).map_err(|e| refused("read a new segment", &e))?;
    let filter = filter::build(&reader, fields).map_err(|e| refused("build a segment's filter", &e))?;
    Ok((u64::from(reader.max_doc()), filter))
}

/// Makes one file of the files as they lie on the disk, with the footers that Tantivy puts on them. The largest is continued,
/// the others are appended to it and removed one by one, so that hardly more is taken than the result has. Reads rather than
/// maps them: mapped pages would count as this process's memory.
fn write_bundle(temp: &TempDirectory, documents: u64, filter: &[u8]) -> io::Result<(TempPath, BundleSummary)> {
    let mut names = temp.names()?.into_iter();
    let largest = names.next().ok_or_else(|| io::Error::other("a new segment has no files"))?;
    let path = temp.take(&largest)?;
    let mut out = File::options().read(true).write(true).open(&path)?;
    out.seek(SeekFrom::End(0))?;
    let mut bundle = BundleWriter::new(io::BufWriter::with_capacity(1 << 20, out), documents);
    bundle.adopt(largest, &mut File::open(&path)?)?;
    for name in names {
        bundle.append(name.clone(), &mut temp.file(&name)?)?;
        temp.remove(&name)?;
    }
    Ok((path, bundle.finish(filter)?))
}
