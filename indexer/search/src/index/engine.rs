//! The engine on Tantivy.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tantivy::{IndexSettings, indexer::merge_filtered_segments};
use tidemark_catalog::{Manifest, SegmentMeta, SidecarMeta};
use tidemark_store::Store;
use tokio::task::spawn_blocking;

use super::{
    builder::{TantivyBuilder, pack_index},
    cache::{Cache, refused},
    lookup::SnapshotLookup,
    schema::Fields,
    scratch::ScratchDirectory,
    segment::OpenSegment,
    sidecar,
    snapshot::{Served, Snapshot},
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, Lookup, PackedSegment, RecordMarks, SegmentBuilder, SegmentFile},
};

/// Objects that are opened at once.
const OPENED_AT_ONCE: usize = 4;
/// No sidecar comes near this size.
const LARGEST_SIDECAR: u64 = 4 << 30;

/// Where an engine keeps segments on the local disk.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// A folder on the local disk. Several processes may share it.
    pub cache_folder: PathBuf,
    /// Bytes that cached segments may take. Segments in use are kept even beyond that, with a warning.
    pub cache_bytes: u64,
}

/// The engine that indexes with Tantivy and keeps whole segments in a bounded disk cache.
pub struct TantivyEngine {
    store: Store,
    cache: Arc<Cache>,
    fields: Arc<Fields>,
    open: Mutex<Open>,
}

/// What was opened already, as long as somebody uses it.
#[derive(Default)]
struct Open {
    segments: HashMap<String, Weak<OpenSegment>>,
    served: HashMap<String, Weak<Served>>,
    sidecars: BTreeMap<String, Arc<RecordMarks>>,
    latest: Option<Arc<Snapshot>>,
}

impl TantivyEngine {
    /// An engine for the segments of the index in `store`.
    pub fn open(store: Store, options: &EngineOptions) -> Result<Self, EngineError> {
        let cache = Cache::open(store.clone(), &options.cache_folder, options.cache_bytes)?;
        Ok(Self { store, cache: Arc::new(cache), fields: Arc::new(Fields::schema().1), open: Mutex::default() })
    }

    /// The segments and marks of `manifest`, open. Keeps what an earlier manifest opened.
    pub(crate) async fn snapshot(&self, manifest: &Manifest) -> Result<Arc<Snapshot>, EngineError> {
        let marks = self.marks(&manifest.sidecars).await?;
        let segments: Vec<_> = stream::iter(manifest.segments.clone())
            .map(|segment| self.served(segment, marks.clone()))
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await?;
        let snapshot = Arc::new(Snapshot { manifest: manifest.clone(), segments, marks });
        self.keep(&snapshot);
        Ok(snapshot)
    }

    pub(crate) fn fields(&self) -> &Arc<Fields> {
        &self.fields
    }

    async fn served(&self, segment: SegmentMeta, marks: Arc<RecordMarks>) -> Result<Arc<Served>, EngineError> {
        let before = self.state().served.get(&segment.key).and_then(Weak::upgrade);
        let open = self.segment(segment).await?;
        spawn_blocking(move || Served::new(open, &marks, before)).await.map_err(|e| refused("open a segment", &e))?
    }

    async fn segment(&self, segment: SegmentMeta) -> Result<Arc<OpenSegment>, EngineError> {
        if let Some(open) = self.state().segments.get(&segment.key).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let cached = self.cache.get(&segment).await?;
        let (key, fields) = (segment.key.clone(), self.fields.clone());
        let opened = spawn_blocking(move || OpenSegment::open(&segment, &fields, cached)).await;
        let open = Arc::new(opened.map_err(|e| damaged(&key, &e))??);
        let weak = Arc::downgrade(&open);
        self.state().segments.insert(key, weak);
        Ok(open)
    }

    /// The union of all sidecars. Only those that are new are read.
    async fn marks(&self, sidecars: &[SidecarMeta]) -> Result<Arc<RecordMarks>, EngineError> {
        let latest = self.state().latest.clone();
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
        if let Some(marks) = self.state().sidecars.get(&sidecar.key) {
            return Ok(marks.clone());
        }
        let marks = Arc::new(self.read_marks(sidecar).await?);
        self.state().sidecars.insert(sidecar.key.clone(), marks.clone());
        Ok(marks)
    }

    /// Remembers what `snapshot` uses and forgets what nobody uses.
    fn keep(&self, snapshot: &Arc<Snapshot>) {
        let mut open = self.state();
        for served in &snapshot.segments {
            let key = served.segment.of.key.clone();
            open.served.insert(key, Arc::downgrade(served));
        }
        open.segments.retain(|_, segment| segment.strong_count() > 0);
        open.served.retain(|_, served| served.strong_count() > 0);
        let named: Vec<&str> = snapshot.manifest.sidecars.iter().map(|s| s.key.as_str()).collect();
        open.sidecars.retain(|key, _| named.contains(&key.as_str()));
        open.latest = Some(snapshot.clone());
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl IndexEngine for TantivyEngine {
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        Ok(Box::new(TantivyBuilder::new(self.cache.folder(), &self.fields)?))
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn Lookup>, EngineError> {
        Ok(Arc::new(SnapshotLookup(self.snapshot(manifest).await?)))
    }

    async fn merge(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let segments: Vec<_> = stream::iter(inputs.to_vec())
            .map(|segment| self.segment(segment))
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await?;
        let (folder, fields) = (self.cache.folder().to_owned(), self.fields.clone());
        spawn_blocking(move || merge(&segments, &fields, &folder)).await.map_err(|e| refused("merge segments", &e))?
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        let open = self.segment(segment.clone()).await?;
        let held = seqs.start.max(segment.seq.start)..seqs.end.min(segment.seq.end);
        spawn_blocking(move || held.filter_map(|seq| open.doc(seq)).map(|doc| open.record(doc)).collect())
            .await
            .map_err(|e| refused("read records", &e))?
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        sidecar::pack(marks).map_err(|e| refused("pack marks", &e))
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        let object = self.store.get(&sidecar.key, LARGEST_SIDECAR).await?;
        let object = object.ok_or_else(|| EngineError::Gone { key: sidecar.key.clone() })?;
        let body = object.body.ok_or_else(|| damaged(&sidecar.key, &"it is too large"))?;
        let found = hex::encode(Sha256::digest(&body));
        if found != sidecar.checksum {
            let why = format!("its SHA-256 is {found}, the manifest says {}", sidecar.checksum);
            return Err(damaged(&sidecar.key, &why));
        }
        sidecar::read(&body).map_err(|e| damaged(&sidecar.key, &e))
    }

    async fn segment_uploaded(&self, segment: &SegmentMeta, file: SegmentFile) {
        if let Err(error) = self.cache.adopt(segment, file) {
            tracing::warn!(key = segment.key, %error, "a new segment was not kept in the cache, it will be fetched");
        }
    }
}

/// One segment with the documents of `segments`, one after the other. Blocks.
fn merge(segments: &[Arc<OpenSegment>], fields: &Fields, folder: &Path) -> Result<PackedSegment, EngineError> {
    let scratch = ScratchDirectory::new(folder).map_err(|e| super::cache::disk(folder, e))?;
    let inputs: Vec<_> = segments.iter().map(|segment| segment.tantivy().clone()).collect();
    let everything = inputs.iter().map(|_| None).collect();
    let merged = merge_filtered_segments(&inputs, IndexSettings::default(), everything, scratch.clone());
    let mut merged = merged.map_err(|e| refused("merge segments", &e))?;
    merged.set_tokenizers(super::schema::tokenizers());
    let packed = pack_index(&merged, &scratch, fields, folder)?;
    let wanted: u64 = segments.iter().map(|segment| segment.of.documents).sum();
    if packed.documents == wanted {
        return Ok(packed);
    }
    let why = format!("{} records went in, {} came out", wanted, packed.documents);
    Err(refused("merge segments", &why))
}

fn damaged(key: &str, why: &impl ToString) -> EngineError {
    EngineError::Damaged { key: key.to_owned(), why: why.to_string() }
}
