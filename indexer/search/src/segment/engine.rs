//! The ingest's engine on Tantivy.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidemark_catalog::{Manifest, SegmentMeta, SidecarMeta};
use tidemark_store::Store;
use tokio::task::spawn_blocking;

use super::{
    builder::TantivySegmentBuilder,
    disk_cache::SegmentDiskCache,
    engine_error::refused,
    lookup::ManifestLookup,
    manifest_view::{ManifestView, SegmentReaderView},
    marks_sidecar,
    merge::merge_segments,
    reader::OpenSegment,
    schema::SchemaFields,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, IndexLookup, PackedSegment, RecordMarks, SegmentBuilder, SegmentFile},
};

/// Objects that are opened at once.
const MAX_CONCURRENT_OPENS: usize = 4;
/// Largest sidecar that is read. Real ones are far smaller.
const MAX_SIDECAR_BYTES: u64 = 4 << 30;

/// Where an engine keeps segments on the local disk.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// A folder on the local disk. Several processes may share it.
    pub cache_folder: PathBuf,
    /// Bytes that cached segments may take. Segments in use that exceed it are read by ranges, with a warning.
    pub cache_bytes: u64,
}

/// The engine that indexes with Tantivy and keeps whole segments in a bounded disk cache.
pub struct TantivyEngine {
    store: Store,
    cache: Arc<SegmentDiskCache>,
    fields: Arc<SchemaFields>,
    open: Mutex<OpenObjects>,
}

/// What is open already, as long as it is in use.
#[derive(Default)]
struct OpenObjects {
    segments: HashMap<String, Weak<OpenSegment>>,
    views: HashMap<String, Weak<SegmentReaderView>>,
    sidecars: BTreeMap<String, Arc<RecordMarks>>,
    latest: Option<Arc<ManifestView>>,
}

impl TantivyEngine {
    /// An engine for the segments of the index in `store`.
    pub fn open(store: Store, options: &EngineOptions) -> Result<Self, EngineError> {
        let cache = SegmentDiskCache::open(store.clone(), &options.cache_folder, options.cache_bytes)?;
        Ok(Self { store, cache: Arc::new(cache), fields: Arc::new(SchemaFields::schema().1), open: Mutex::default() })
    }

    /// The segments and marks of `manifest`, open. Keeps what an earlier manifest opened.
    pub(crate) async fn open_manifest(&self, manifest: &Manifest) -> Result<Arc<ManifestView>, EngineError> {
        let marks = self.marks(&manifest.sidecars).await?;
        let segments: Vec<_> = stream::iter(manifest.segments.clone())
            .map(|segment| self.reader_view(segment, marks.clone()))
            .buffered(MAX_CONCURRENT_OPENS)
            .try_collect()
            .await?;
        let view = Arc::new(ManifestView { manifest: manifest.clone(), segments, marks });
        self.remember(&view);
        Ok(view)
    }

    pub(crate) fn fields(&self) -> &Arc<SchemaFields> {
        &self.fields
    }

    async fn reader_view(
        &self,
        segment: SegmentMeta,
        marks: Arc<RecordMarks>,
    ) -> Result<Arc<SegmentReaderView>, EngineError> {
        let before = self.open.lock().views.get(&segment.key).and_then(Weak::upgrade);
        let open = self.segment(segment).await?;
        spawn_blocking(move || SegmentReaderView::new(open, &marks, before))
            .await
            .map_err(|e| refused("open a segment", &e))?
    }

    async fn segment(&self, segment: SegmentMeta) -> Result<Arc<OpenSegment>, EngineError> {
        if let Some(open) = self.open.lock().segments.get(&segment.key).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let cached = self.cache.get(&segment).await?;
        let (key, fields) = (segment.key.clone(), self.fields.clone());
        let opened = spawn_blocking(move || OpenSegment::open(&segment, &fields, cached)).await;
        let open = Arc::new(opened.map_err(|e| damaged(&key, &e))??);
        let weak = Arc::downgrade(&open);
        self.open.lock().segments.insert(key, weak);
        Ok(open)
    }

    /// The union of all sidecars. Only those that are new are read.
    async fn marks(&self, sidecars: &[SidecarMeta]) -> Result<Arc<RecordMarks>, EngineError> {
        let latest = self.open.lock().latest.clone();
        let known = latest.as_deref().map_or(&[][..], |latest| &latest.manifest.sidecars);
        let (mut union, new) = match (&latest, sidecars.strip_prefix(known)) {
            (Some(latest), Some(new)) => (latest.marks.clone(), new),
            _ => (Arc::default(), sidecars),
        };
        for sidecar in new {
            let marks = self.read_marks_once(sidecar).await?;
            Arc::make_mut(&mut union).merge(&marks);
        }
        Ok(union)
    }

    async fn read_marks_once(&self, sidecar: &SidecarMeta) -> Result<Arc<RecordMarks>, EngineError> {
        if let Some(marks) = self.open.lock().sidecars.get(&sidecar.key) {
            return Ok(marks.clone());
        }
        let marks = Arc::new(self.read_marks(sidecar).await?);
        self.open.lock().sidecars.insert(sidecar.key.clone(), marks.clone());
        Ok(marks)
    }

    /// Remembers what `view` uses and forgets what is not in use any more.
    fn remember(&self, view: &Arc<ManifestView>) {
        let mut open = self.open.lock();
        for shown in &view.segments {
            let key = shown.segment.of.key.clone();
            open.views.insert(key, Arc::downgrade(shown));
        }
        open.segments.retain(|_, segment| segment.strong_count() > 0);
        open.views.retain(|_, view| view.strong_count() > 0);
        let named: Vec<&str> = view.manifest.sidecars.iter().map(|s| s.key.as_str()).collect();
        open.sidecars.retain(|key, _| named.contains(&key.as_str()));
        open.latest = Some(view.clone());
    }
}

#[async_trait]
impl IndexEngine for TantivyEngine {
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        Ok(Box::new(TantivySegmentBuilder::new(self.cache.folder(), &self.fields)?))
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        Ok(Arc::new(ManifestLookup(self.open_manifest(manifest).await?)))
    }

    async fn merge(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let segments: Vec<_> = stream::iter(inputs.to_vec())
            .map(|segment| self.segment(segment))
            .buffered(MAX_CONCURRENT_OPENS)
            .try_collect()
            .await?;
        let (folder, fields) = (self.cache.folder().to_owned(), self.fields.clone());
        spawn_blocking(move || merge_segments(&segments, &fields, &folder))
            .await
            .map_err(|e| refused("merge segments", &e))?
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        let open = self.segment(segment.clone()).await?;
        let held = seqs.start.max(segment.seq.start)..seqs.end.min(segment.seq.end);
        spawn_blocking(move || held.filter_map(|seq| open.doc(seq)).map(|doc| open.record(doc)).collect())
            .await
            .map_err(|e| refused("read records", &e))?
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        marks_sidecar::encode(marks).map_err(|e| refused("pack marks", &e))
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        let object = self.store.get(&sidecar.key, MAX_SIDECAR_BYTES).await?;
        let object = object.ok_or_else(|| EngineError::Gone { key: sidecar.key.clone() })?;
        let body = object.body.ok_or_else(|| damaged(&sidecar.key, &"it is too large"))?;
        let found = hex::encode(Sha256::digest(&body));
        if found != sidecar.checksum {
            let why = format!("its SHA-256 is {found}, the manifest says {}", sidecar.checksum);
            return Err(damaged(&sidecar.key, &why));
        }
        marks_sidecar::decode(&body).map_err(|e| damaged(&sidecar.key, &e))
    }

    async fn segment_uploaded(&self, segment: &SegmentMeta, file: SegmentFile) {
        if let Err(error) = self.cache.adopt(segment, file) {
            tracing::warn!(key = segment.key, %error, "cannot keep a new segment in the cache; it is fetched when it is needed");
        }
    }
}

fn damaged(key: &str, why: &impl ToString) -> EngineError {
    EngineError::Damaged { key: key.to_owned(), why: why.to_string() }
}
