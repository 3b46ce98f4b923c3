//! Builds a segment and writes it as one bundle.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tantivy::{Index, SegmentReader, SingleSegmentIndexWriter, TantivyDocument};
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    bundle,
    document::to_document,
    engine_error::{disk, refused},
    filter,
    schema::{SchemaFields, tokenizers},
    temp_dir::TempDirectory,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, PackedSegment, SegmentBuilder, SegmentFile},
};

/// Memory that Tantivy sizes its hash tables for. They grow when a segment needs more.
const WRITER_MEMORY_BYTES: usize = 32 << 20;

/// Fills one segment on a blocking thread; documents keep the order in which they come.
pub(crate) struct TantivySegmentBuilder {
    state: BuilderState,
    folder: PathBuf,
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
}

impl TantivySegmentBuilder {
    /// An empty segment with its files in `folder`.
    pub(crate) fn new(folder: &Path, fields: &Arc<SchemaFields>) -> Result<Self, EngineError> {
        let temp = TempDirectory::new(folder).map_err(|e| disk(folder, e))?;
        let writer = Index::builder()
            .schema(SchemaFields::schema().0)
            .tokenizers(tokenizers())
            .single_segment_index_writer(temp.clone(), WRITER_MEMORY_BYTES)
            .map_err(|e| refused("start a segment", &e))?;
        Ok(Self {
            state: BuilderState::Idle(Box::new(SegmentWriter { temp, writer, fields: fields.clone() })),
            folder: folder.to_owned(),
            size: Arc::default(),
        })
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
            inner.add(&records)?;
            size.store(inner.writer.mem_usage(), Ordering::Relaxed);
            Ok(inner)
        }));
        Ok(())
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    async fn finish(mut self: Box<Self>) -> Result<PackedSegment, EngineError> {
        let inner = self.idle().await?;
        let folder = self.folder;
        spawn_blocking(move || {
            let index = inner.writer.finalize().map_err(|e| refused("finish a segment", &e))?;
            bundle_index(&index, &inner.temp, &inner.fields, &folder)
        })
        .await
        .map_err(|e| refused("finish a segment", &e))?
    }
}

impl SegmentWriter {
    fn add(&mut self, records: &[OperationRecord]) -> Result<(), EngineError> {
        for record in records {
            let doc = to_document(&self.fields, record).map_err(|e| refused("store a record", &e))?;
            self.writer.add_document(doc).map_err(|e| refused("index a record", &e))?;
        }
        Ok(())
    }
}

/// Writes an index of one segment, which lies in `temp`, as one file in `folder`. Blocks.
pub(crate) fn bundle_index(
    index: &Index,
    temp: &TempDirectory,
    fields: &SchemaFields,
    folder: &Path,
) -> Result<PackedSegment, EngineError> {
    let segments = index.searchable_segments().map_err(|e| refused("read a new segment", &e))?;
    let segment = segments.first().ok_or_else(|| refused("bundle a segment", &"it holds no record"))?;
    let reader = SegmentReader::open(segment).map_err(|e| refused("read a new segment", &e))?;
    let filter = filter::build(&reader, fields).map_err(|e| refused("build a segment's filter", &e))?;
    let documents = u64::from(reader.max_doc());
    let mut file = NamedTempFile::new_in(folder).map_err(|e| disk(folder, e))?;
    let out = io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
    let written = write_bundle(temp, out, documents, &filter).map_err(|e| disk(folder, e))?;
    Ok(PackedSegment {
        file: SegmentFile::File(file.into_temp_path()),
        size: written.size,
        checksum: written.checksum,
        documents,
    })
}

/// Copies the files as they lie on the disk, with the footers that Tantivy puts on them. Reads rather than maps them:
/// mapped pages would count as this process's memory.
fn write_bundle(
    temp: &TempDirectory,
    out: impl io::Write,
    documents: u64,
    filter: &[u8],
) -> io::Result<bundle::BundleSummary> {
    let files = temp.names()?.into_iter().map(|name| {
        let file = temp.file(&name)?;
        Ok((name, file))
    });
    bundle::write(out, documents, files, filter)
}
