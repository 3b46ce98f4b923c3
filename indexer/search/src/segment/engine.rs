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
use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};
use tidemark_catalog::{Manifest, SegmentMeta, SidecarMeta};
use tidemark_store::Store;
use tokio::{sync::Notify, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use super::{
    builder::TantivySegmentBuilder,
    cached_segment::CachedSegment,
    compaction::{compact_segments, rebuild_bytes, scratch_bytes},
    disk_budget::RoomUse,
    disk_cache::SegmentDiskCache,
    engine_error::refused,
    footer::BundleError,
    lookup::ManifestLookup,
    manifest_view::{ManifestView, SegmentReaderView},
    marks_sidecar::{self, SidecarError},
    ranged_file::held_bytes,
    reader::OpenSegment,
    record_stats::{grouped_record_stats, record_stats},
    schema::SchemaFields,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{
        EngineError, IndexEngine, IndexLookup, PackedSegment, RecordMarks, RecordPlace, RecordStats, SegmentBuilder,
        SegmentFile,
    },
};

/// Objects that are opened at once.
const MAX_CONCURRENT_OPENS: usize = 4;
/// Segments of at most so many bytes are fetched whole before they are used: reading parts of them takes as many requests.
const MAX_UNDEFERRED_BYTES: u64 = 1 << 20;
/// The part of the share of whole segments that they may take whatever is held of others.
const LEAST_LOCAL_PART: u64 = 3;
/// Largest sidecar that is read. Real ones are far smaller.
const MAX_SIDECAR_BYTES: u64 = 4 << 30;

/// Where an engine keeps segments on the local disk.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// A folder on the local disk. Several processes may share it.
    pub cache_folder: PathBuf,
    /// Bytes that the folder may take in all: cached segments, downloads, and the files of segments that are built and compacted.
    /// Segments in use that exceed their share are read by ranges, the oldest ones, with a warning.
    pub cache_bytes: u64,
}

/// The engine that indexes with Tantivy and keeps whole segments in a bounded disk cache.
pub struct TantivyEngine {
    store: Store,
    cache: Arc<SegmentDiskCache>,
    fields: Arc<SchemaFields>,
    open: Mutex<OpenObjects>,
    prefetching: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Notified of each segment that came to the disk in the background.
    fetched: Arc<Notify>,
}

/// Where a segment should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentPlace {
    /// On the local disk, whole.
    Disk,
    /// In the store, read by ranges.
    Store,
}

/// What is open already, as long as it is in use.
#[derive(Default)]
struct OpenObjects {
    segments: HashMap<String, Weak<OpenSegment>>,
    views: HashMap<String, Weak<SegmentReaderView>>,
    sidecars: BTreeMap<String, Arc<RecordMarks>>,
    latest: Option<Arc<ManifestView>>,
}

impl OpenObjects {
    fn upgrade(&self, key: &str) -> Option<Arc<OpenSegment>> {
        self.segments.get(key).and_then(Weak::upgrade)
    }
}

impl TantivyEngine {
    /// An engine for the segments of the index in `store`.
    pub fn open(store: Store, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::with_fields(store, options, SchemaFields::current())
    }

    /// An engine that writes segments of the format of `fields`.
    pub(crate) fn with_fields(
        store: Store,
        options: &EngineOptions,
        fields: SchemaFields,
    ) -> Result<Self, EngineError> {
        let cache = SegmentDiskCache::open(store.clone(), &options.cache_folder, options.cache_bytes)?;
        Ok(Self {
            store,
            cache: Arc::new(cache),
            fields: Arc::new(fields),
            open: Mutex::default(),
            prefetching: Mutex::default(),
            fetched: Arc::default(),
        })
    }

    /// The segments and marks of `manifest`, open. Keeps what an earlier manifest opened.
    ///
    /// Waits for no long download: segments that belong on the disk and do not lie there are opened in the store, and fetched behind
    /// that. They are used from the disk when they are opened again.
    pub(crate) async fn open_manifest(&self, manifest: &Manifest) -> Result<Arc<ManifestView>, EngineError> {
        let marks = self.marks(&manifest.sidecars).await?;
        // The newest first: they are asked most, so they get the disk.
        let places = self.places(&manifest.segments);
        let opened = stream::iter(places.clone())
            .map(|(segment, place)| self.reader_view(segment, place, marks.clone()))
            .buffered(MAX_CONCURRENT_OPENS)
            .try_collect::<Vec<_>>()
            .await;
        // Also where one cannot be opened: the next attempt finds the others on the disk.
        self.prefetch(&places);
        let mut segments = opened?;
        segments.reverse();
        let view = Arc::new(ManifestView { manifest: manifest.clone(), segments, marks });
        self.remember(&view);
        Ok(view)
    }

    /// Fetches the segments of `manifest` that belong on the disk, if everything that was opened last lies there: its readers go
    /// on with it meanwhile rather than read the store. What cannot be fetched is left to [`Self::open_manifest`].
    pub(crate) async fn fetch_if_all_is_local(&self, manifest: &Manifest) {
        if !self.open.lock().latest.as_ref().is_some_and(|latest| latest.is_local()) {
            return;
        }
        let wanted = self.missing(&self.places(&manifest.segments));
        let fetch = |segment: SegmentMeta| async move {
            if let Err(error) = self.cache.get_local(&segment).await {
                tracing::warn!(key = segment.key, %error, "cannot fetch a new segment before it is used");
            }
        };
        stream::iter(wanted).for_each_concurrent(MAX_CONCURRENT_OPENS, fetch).await;
    }

    /// Waits until a segment has come to the disk in the background since the last call.
    pub(crate) async fn segment_fetched(&self) {
        self.fetched.notified().await;
    }

    pub(crate) fn fields(&self) -> &Arc<SchemaFields> {
        &self.fields
    }

    /// Where each segment should be, the newest first: on the disk as many as its share holds beside what those in the store hold
    /// there.
    fn places(&self, segments: &[SegmentMeta]) -> Vec<(SegmentMeta, SegmentPlace)> {
        let budget = self.cache.budget();
        let (share, parts) = (budget.limit(RoomUse::CachedSegment), budget.open_limit());
        let open = self.open.lock();
        let mut taken = 0;
        let mut held: u64 = segments.iter().map(|segment| held_bytes(segment.size)).sum();
        let place = |segment: &SegmentMeta| {
            let held_by_others = held - held_bytes(segment.size);
            // The newest ones are asked most, however many others there are.
            let share = share.min(parts.saturating_sub(held_by_others).max(share / LEAST_LOCAL_PART));
            let is_remote =
                !self.cache.has_file(segment) && open.upgrade(&segment.key).is_some_and(|open| !open.is_local());
            // One that is read by ranges comes to the disk only if it is likely to stay there.
            let limit = if is_remote { share - share / 8 } else { share };
            let fits = taken + segment.size <= limit;
            if fits {
                (taken, held) = (taken + segment.size, held_by_others);
            }
            (segment.clone(), if fits { SegmentPlace::Disk } else { SegmentPlace::Store })
        };
        segments.iter().rev().map(place).collect()
    }

    async fn reader_view(
        &self,
        segment: SegmentMeta,
        place: SegmentPlace,
        marks: Arc<RecordMarks>,
    ) -> Result<Arc<SegmentReaderView>, EngineError> {
        let before = self.open.lock().views.get(&segment.key).and_then(Weak::upgrade);
        let open = self.segment_at(segment, place).await?;
        spawn_blocking(move || SegmentReaderView::new(open, &marks, before))
            .await
            .map_err(|e| refused("open a segment", &e))?
    }

    /// The segment, open at `place` if that can be had now.
    async fn segment_at(&self, segment: SegmentMeta, place: SegmentPlace) -> Result<Arc<OpenSegment>, EngineError> {
        let open = self.open.lock().upgrade(&segment.key);
        match (open, place) {
            (Some(open), SegmentPlace::Disk) if open.is_local() => Ok(open),
            (Some(open), SegmentPlace::Store) if !open.is_local() => Ok(open),
            // It is used from there when it is opened again after it was fetched.
            (Some(open), SegmentPlace::Disk) if !self.cache.has_file(&segment) => {
                // Only a whole download is compared with its checksum.
                self.cache.damaged().check(&segment.key)?;
                Ok(open)
            }
            (Some(open), SegmentPlace::Disk) => match self.cache.get_local(&segment).await? {
                Some(cached) => self.open_segment(segment, cached).await,
                None => Ok(open),
            },
            (None, SegmentPlace::Disk) if segment.size <= MAX_UNDEFERRED_BYTES || self.cache.has_file(&segment) => {
                self.fetch_segment(segment.clone(), self.cache.get(&segment)).await
            }
            (None, SegmentPlace::Disk) | (_, SegmentPlace::Store) => {
                self.fetch_segment(segment.clone(), self.cache.get_ranged(&segment)).await
            }
        }
    }

    /// The segment that `cached` gives, open.
    async fn fetch_segment(
        &self,
        segment: SegmentMeta,
        cached: impl Future<Output = Result<CachedSegment, EngineError>>,
    ) -> Result<Arc<OpenSegment>, EngineError> {
        let key = segment.key.clone();
        let open = async { self.open_segment(segment, cached.await?).await };
        self.cache.damaged().fetch_unless_damaged(&key, open).await
    }

    /// The segment, open wherever it is.
    async fn segment(&self, segment: SegmentMeta) -> Result<Arc<OpenSegment>, EngineError> {
        let open = self.open.lock().upgrade(&segment.key);
        match open {
            Some(open) => Ok(open),
            None => self.segment_at(segment, SegmentPlace::Disk).await,
        }
    }

    async fn open_segment(&self, segment: SegmentMeta, cached: CachedSegment) -> Result<Arc<OpenSegment>, EngineError> {
        let key = segment.key.clone();
        let open = self.open_unshared(segment, cached).await?;
        self.open.lock().segments.insert(key, Arc::downgrade(&open));
        Ok(open)
    }

    async fn open_unshared(
        &self,
        segment: SegmentMeta,
        cached: CachedSegment,
    ) -> Result<Arc<OpenSegment>, EngineError> {
        let (key, fields) = (segment.key.clone(), self.fields.clone());
        let opened = spawn_blocking(move || OpenSegment::open(&segment, &fields, cached)).await;
        Ok(Arc::new(opened.map_err(|e| damaged(&key, &e))??))
    }

    /// Fetches the segments to the disk that should be there, one after the other in the background, so that nobody waits for them. Does
    /// nothing while others are being fetched.
    fn prefetch(&self, places: &[(SegmentMeta, SegmentPlace)]) {
        let mut prefetching = self.prefetching.lock();
        if prefetching.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let wanted = self.missing(places);
        if wanted.is_empty() {
            return;
        }
        let (cache, fetched) = (self.cache.clone(), self.fetched.clone());
        let fetch = async move {
            for segment in wanted {
                match cache.get_local(&segment).await {
                    Ok(Some(_)) => fetched.notify_one(),
                    // The others are older.
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(key = segment.key, %error, "a segment stays in the store and is read by ranges");
                    }
                }
            }
        };
        *prefetching = Some(AbortOnDropHandle::new(tokio::spawn(fetch)));
    }

    /// The segments that should be on the disk and are not, in the order of `places`.
    fn missing(&self, places: &[(SegmentMeta, SegmentPlace)]) -> Vec<SegmentMeta> {
        let missing =
            places.iter().filter(|(segment, place)| *place == SegmentPlace::Disk && !self.cache.has_file(segment));
        missing.map(|(segment, _)| segment.clone()).collect()
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

    async fn fetch_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        let object = self.store.get(&sidecar.key, MAX_SIDECAR_BYTES).await?;
        let object = object.ok_or_else(|| EngineError::Gone { key: sidecar.key.clone() })?;
        let body = object.body.ok_or_else(|| damaged(&sidecar.key, &"it is too large"))?;
        let found = hex::encode(Sha256::digest(&body));
        if found != sidecar.checksum {
            let why = format!("its SHA-256 is {found}, the manifest says {}", sidecar.checksum);
            return Err(damaged(&sidecar.key, &why));
        }
        marks_sidecar::decode(&body).map_err(|e| match e {
            SidecarError::OtherFormat { found } => {
                EngineError::OtherFormat { key: sidecar.key.clone(), found, known: marks_sidecar::FORMAT }
            }
            other => damaged(&sidecar.key, &other),
        })
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
        Ok(Box::new(TantivySegmentBuilder::new(self.cache.budget(), &self.fields)?))
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        Ok(Arc::new(ManifestLookup(self.open_manifest(manifest).await?)))
    }

    fn format(&self) -> u32 {
        self.fields.format
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let scratch = scratch_bytes(inputs.iter().map(|segment| segment.size).sum());
        let missing = inputs.iter().filter(|segment| !self.cache.has_file(segment));
        let missing: u64 = missing.map(|segment| segment.size).sum();
        // All of it before the first byte; each download then takes its own.
        let mut room = self.cache.budget().require(scratch + missing, RoomUse::Compaction)?;
        room.set(scratch);
        let mut segments = Vec::with_capacity(inputs.len());
        for segment in inputs {
            let cached = self.cache.get_verified(segment).await?;
            segments.push(self.open_unshared(segment.clone(), cached).await?);
        }
        let older = segments.iter().filter(|segment| segment.format != self.fields.format);
        let rebuilt = rebuild_bytes(older.map(|segment| segment.of.size).sum());
        if !room.grow(rebuilt, RoomUse::Compaction) {
            return Err(room.budget().no_room(rebuilt));
        }
        let fields = self.fields.clone();
        spawn_blocking(move || compact_segments(&segments, &fields, room))
            .await
            .map_err(|e| refused("compact segments", &e))?
    }

    fn max_compaction_bytes(&self) -> u64 {
        self.cache.budget().max_compaction_bytes()
    }

    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        let file = match &packed.file {
            SegmentFile::File(file) => self.cache.map(&file.path)?,
            SegmentFile::Memory(bytes) => bytes.to_vec().into(),
        };
        let (fields, parts) = (self.fields.clone(), parts.to_vec());
        spawn_blocking(move || record_stats(file, &fields, &parts))
            .await
            .map_err(|e| refused("read a new segment", &e))?
            .map_err(|e| refused("read a new segment", &e))
    }

    async fn verified_stats(
        &self,
        segment: &SegmentMeta,
        groups: Arc<[RoaringTreemap]>,
    ) -> Result<Vec<RecordStats>, EngineError> {
        let cached = match self.cache.get_verified(segment).await {
            // It is read twice then: as a whole, of which nothing is kept, and by ranges.
            Err(EngineError::NoRoom { .. }) => self.cache.get_ranged_verified(segment).await,
            cached => cached,
        }?;
        let (key, fields, first_seq) = (segment.key.clone(), self.fields.clone(), segment.seq.start);
        let read = move || {
            let stats = grouped_record_stats(cached.file().clone(), &fields, first_seq, &groups);
            // Until here: a file that is in use is not evicted.
            drop(cached);
            stats.map_err(|error| match error.downcast_ref() {
                Some(BundleError::OtherFormat { found }) => {
                    EngineError::OtherFormat { key: key.clone(), found: *found, known: fields.format }
                }
                _ => damaged(&key, &error),
            })
        };
        spawn_blocking(read).await.map_err(|e| refused("read a segment", &e))?
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        let open = self.segment(segment.clone()).await?;
        let held = seqs.start.max(segment.seq.start)..seqs.end.min(segment.seq.end);
        spawn_blocking(move || held.filter_map(|seq| open.doc(seq)).map(|doc| open.record(doc)).collect())
            .await
            .map_err(|e| refused("read records", &e))?
    }

    async fn places(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<RecordPlace>, EngineError> {
        let open = self.segment(segment.clone()).await?;
        let held = seqs.start.max(segment.seq.start)..seqs.end.min(segment.seq.end);
        spawn_blocking(move || held.filter_map(|seq| open.doc(seq)).map(|doc| open.place(doc)).collect())
            .await
            .map_err(|e| refused("read records", &e))?
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        marks_sidecar::encode(marks).map_err(|e| refused("pack marks", &e))
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        self.cache.damaged().fetch_unless_damaged(&sidecar.key, self.fetch_marks(sidecar)).await
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
