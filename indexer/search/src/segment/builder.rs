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
    schema::SchemaFields,
    temp_dir::TempDirectory,
    term_filter,
    tokenizers::tokenizers,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, LocalFile, PackedSegment, SegmentBuilder, SegmentFile, UnfitRecords},
};

/// Memory that Tantivy sizes its hash tables for. They grow when a segment needs more.
const WRITER_MEMORY_BYTES: usize = 32 << 20;
/// What an empty segment takes on the disk.
const EMPTY_SEGMENT_BYTES: u64 = 64 << 10;
/// What a record takes on the disk while its segment is built and packed, beside a multiple of its stored form: the terms of
/// its fixed fields.
const RECORD_BYTES: u64 = 1 << 10;
/// Bytes on the disk a byte of a stored record, at most: stored, indexed with positions, in a column, and one of these copied.
const DISK_BYTES_PER_STORED_BYTE: u64 = 4;
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
    writer: DocumentWriter,
    room: DiskReservation,
    /// How much of the room the records so far need.
    needed: u64,
    /// The entries from the first one on that does not fit.
    unfit: Option<UnfitRecords>,
}

impl TantivySegmentBuilder {
    /// An empty segment with its files in the folder of `budget`.
    pub(crate) fn new(budget: &Arc<DiskBudget>, fields: &Arc<SchemaFields>) -> Result<Self, EngineError> {
        budget.expect_builds();
        let room = budget.require(EMPTY_SEGMENT_BYTES, RoomUse::NewSegment)?;
        let writer = DocumentWriter::new(fields, budget)?;
        let writer = SegmentWriter { writer, room, needed: EMPTY_SEGMENT_BYTES, unfit: None };
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
            let has_room = inner.add(records)?;
            let memory = if has_room { inner.writer.memory_bytes() } else { usize::MAX };
            // `Relaxed`: the size only tells when a segment is large enough, and guards no other memory.
            size.store(memory, Ordering::Relaxed);
            Ok(inner)
        }));
        Ok(())
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    async fn flush(&mut self) -> Result<Option<UnfitRecords>, EngineError> {
        let mut inner = self.idle().await?;
        let unfit = inner.unfit.take();
        self.state = BuilderState::Idle(inner);
        Ok(unfit)
    }

    async fn finish(mut self: Box<Self>) -> Result<PackedSegment, EngineError> {
        let inner = self.idle().await?;
        spawn_blocking(move || {
            let SegmentWriter { writer, room, unfit, .. } = *inner;
            if let Some(unfit) = unfit {
                return Err(unfit.why);
            }
            let fields = writer.fields.clone();
            let (index, temp) = writer.finish(room.budget())?;
            bundle_index(&index, &temp, &fields, room)
        })
        .await
        .map_err(|e| refused("finish a segment", &e))?
    }
}

/// Writes the documents of one segment to a folder of its own.
pub(crate) struct DocumentWriter {
    temp: TempDirectory,
    writer: SingleSegmentIndexWriter<TantivyDocument>,
    fields: Arc<SchemaFields>,
}

impl DocumentWriter {
    pub(crate) fn new(fields: &Arc<SchemaFields>, budget: &DiskBudget) -> Result<Self, EngineError> {
        let temp = TempDirectory::new(budget.folder()).map_err(|e| disk(budget.folder(), e))?;
        let writer = Index::builder()
            .schema(fields.schema.clone())
            .tokenizers(tokenizers())
            .single_segment_index_writer(temp.clone(), WRITER_MEMORY_BYTES)
            .map_err(|e| not_written("start a segment", &e, budget))?;
        Ok(Self { temp, writer, fields: fields.clone() })
    }

    /// Adds a record, whose JSON is `stored`.
    pub(crate) fn add(
        &mut self,
        record: &OperationRecord,
        stored: &[u8],
        budget: &DiskBudget,
    ) -> Result<(), EngineError> {
        let added = self.writer.add_document(to_document(&self.fields, record, stored));
        added.map_err(|e| not_written("index a record", &e, budget))
    }

    /// Bytes of memory that the documents take by now.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.writer.mem_usage()
    }

    /// The index of one segment, and the folder that its files are in.
    pub(crate) fn finish(self, budget: &DiskBudget) -> Result<(Index, TempDirectory), EngineError> {
        let index = self.writer.finalize().map_err(|e| not_written("finish a segment", &e, budget))?;
        Ok((index, self.temp))
    }
}

impl SegmentWriter {
    /// Adds `records`, as far as there is room for whole entries. False if the disk has no room for as many again.
    fn add(&mut self, mut records: Vec<OperationRecord>) -> Result<bool, EngineError> {
        if let Some(unfit) = &mut self.unfit {
            unfit.records.append(&mut records);
            return Ok(false);
        }
        let before = self.needed;
        let mut added = 0;
        for entry in records.chunk_by(|one, next| one.token == next.token) {
            let stored: Result<Vec<_>, _> = entry.iter().map(serde_json::to_vec).collect();
            let stored = stored.map_err(|e| refused("store a record", &e))?;
            let bytes = stored.iter().map(|one| RECORD_BYTES + DISK_BYTES_PER_STORED_BYTE * one.len() as u64).sum();
            if let Err(why) = self.reserve(bytes) {
                self.unfit = Some(UnfitRecords { records: records.split_off(added), why });
                return Ok(false);
            }
            for (record, stored) in entry.iter().zip(&stored) {
                self.writer.add(record, stored, self.room.budget())?;
            }
            added += entry.len();
        }
        // The records that come next were read already, and the segment is finished only after them.
        let ahead = (self.needed + 2 * (self.needed - before)).saturating_sub(self.room.bytes());
        Ok(self.room.grow(ahead, RoomUse::NewSegment))
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), EngineError> {
        let missing = (self.needed + bytes).saturating_sub(self.room.bytes());
        let fits = missing == 0
            || self.room.grow(missing.max(ROOM_STEP_BYTES), RoomUse::NewSegment)
            || self.room.grow(missing, RoomUse::NewSegment);
        if !fits {
            return Err(self.room.budget().no_room(missing));
        }
        self.needed += bytes;
        Ok(())
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
    let (path, written) =
        write_bundle(temp, fields.format, documents, &filter).map_err(|e| disk_write(room.budget(), e))?;
    let BundleSummary { size, checksum } = written;
    room.set(size);
    let file = SegmentFile::File(LocalFile { path, room: Box::new(room) });
    Ok(PackedSegment { file, size, checksum, format: fields.format, documents })
}

/// The number of documents and the filter. Nothing of the index stays mapped: a mapped file keeps its bytes on the disk when it
/// is removed.
fn summarize(index: &Index, fields: &SchemaFields) -> Result<(u64, Vec<u8>), EngineError> {
    let segments = index.searchable_segments().map_err(|e| refused("read a new segment", &e))?;
    let segment = segments.first().ok_or_else(|| refused("bundle a segment", &"it holds no record"))?;
    let reader = SegmentReader::open(segment).map_err(|e| refused("read a new segment", &e))?;
    let filter = term_filter::build(&reader, fields).map_err(|e| refused("build a segment's filter", &e))?;
    Ok((u64::from(reader.max_doc()), filter))
}

/// Makes one file of the files as they lie on the disk, with the footers that Tantivy puts on them. The largest is continued,
/// the others are appended to it and removed one by one, so that hardly more is taken than the result has. Reads rather than
/// maps them: mapped pages would count as this process's memory.
fn write_bundle(
    temp: &TempDirectory,
    format: u32,
    documents: u64,
    filter: &[u8],
) -> io::Result<(TempPath, BundleSummary)> {
    let mut names = temp.names()?.into_iter();
    let largest = names.next().ok_or_else(|| io::Error::other("a new segment has no files"))?;
    let path = temp.take(&largest)?;
    let mut out = File::options().read(true).write(true).open(&path)?;
    out.seek(SeekFrom::End(0))?;
    let mut bundle = BundleWriter::new(io::BufWriter::with_capacity(1 << 20, out), format, documents);
    bundle.adopt(largest, &mut File::open(&path)?)?;
    for name in names {
        bundle.append(name.clone(), &mut temp.file(&name)?)?;
        temp.remove(&name)?;
    }
    Ok((path, bundle.finish(filter)?))
}
