//! Whole segment objects on the local disk: fetched once, verified, memory-mapped, evicted least recently used first.
//!
//! Files are named by the SHA-256 of their content, so a file is either right or refused. A file that is in use is never
//! evicted; a segment that does not fit beside those is read by ranges. The bytes of the folder are a [`DiskBudget`].

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tantivy::directory::FileSlice;
use tempfile::{NamedTempFile, TempPath};
use tidemark_catalog::SegmentMeta;
use tidemark_store::Store;
use tokio::task::spawn_blocking;

use super::{
    cached_segment::CachedSegment,
    damaged_objects::DamagedObjects,
    disk_budget::{DiskBudget, DiskReservation, HeldFile, LOCK_FILE, RoomUse, is_full},
    engine_error::{disk, refused},
    ranged_file::{BlockCache, RangedFile},
};
use tidemark_ingest::engine::{EngineError, LocalFile, SegmentFile};

/// Bytes of one GET of a download.
const DOWNLOAD_PART_BYTES: u64 = 8 << 20;
/// GETs at once for one object.
const MAX_CONCURRENT_PARTS: usize = 4;
/// Bytes of memory for segments that are read by ranges.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// How many caches may share a folder: each process takes the first that is free.
const MAX_CACHES_PER_FOLDER: u32 = 64;

/// A bounded folder of segment objects. One process a folder.
pub(crate) struct SegmentDiskCache {
    store: Store,
    budget: Arc<DiskBudget>,
    blocks: Arc<BlockCache>,
    /// By checksum: one fetch of an object at a time.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    damaged: DamagedObjects,
    _lock: File,
}

impl SegmentDiskCache {
    /// A cache of `bound` bytes for objects of `store`, in a folder of its own inside of `parent`.
    ///
    /// Files of an earlier process are used again once they are verified.
    pub(crate) fn open(store: Store, parent: &Path, bound: u64) -> Result<Self, EngineError> {
        let (folder, lock) = own_folder(parent).map_err(|e| disk(parent, e))?;
        let budget = DiskBudget::open(&folder, bound).map_err(|e| disk(&folder, e))?;
        let blocks = Arc::new(BlockCache::new(BLOCK_CACHE_BYTES));
        let (fetching, damaged) = (Mutex::default(), DamagedObjects::default());
        Ok(Self { store, budget, blocks, fetching, damaged, _lock: lock })
    }

    /// The bytes of the folder, of which temporary files take their share too.
    pub(crate) fn budget(&self) -> &Arc<DiskBudget> {
        &self.budget
    }

    /// The objects that were found damaged in the store.
    pub(crate) fn damaged(&self) -> &DamagedObjects {
        &self.damaged
    }

    /// The object of `segment`: from the disk, or fetched from the store and verified, or where there is no room for it, to be
    /// read by ranges.
    pub(crate) async fn get(&self, segment: &SegmentMeta) -> Result<CachedSegment, EngineError> {
        match self.get_local(segment).await? {
            Some(local) => Ok(local),
            None => self.get_ranged(segment).await,
        }
    }

    /// The object of `segment` on the disk; `None` if there is no room for it beside what is in use.
    pub(crate) async fn get_local(&self, segment: &SegmentMeta) -> Result<Option<CachedSegment>, EngineError> {
        let held = match self.budget.held(&segment.checksum) {
            None => self.hold_or_download(segment).await?,
            held => held,
        };
        Ok(held.map(CachedSegment::Local))
    }

    async fn hold_or_download(&self, segment: &SegmentMeta) -> Result<Option<Arc<HeldFile>>, EngineError> {
        let _fetch = self.begin_fetch(segment).await;
        if let Some(held) = self.budget.held(&segment.checksum) {
            return Ok(Some(held));
        }
        match self.budget.is_verified(&segment.checksum) {
            Some(true) if let Ok(held) = self.hold(&segment.checksum) => Ok(Some(held)),
            Some(false) if self.verify_file(segment).await => self.hold(&segment.checksum).map(Some),
            _ => self.download(segment, RoomUse::CachedSegment).await,
        }
    }

    /// The object of `segment` on the disk, its bytes checked now; fetched where it is not there. For a compaction.
    pub(crate) async fn get_verified(&self, segment: &SegmentMeta) -> Result<CachedSegment, EngineError> {
        let _fetch = self.begin_fetch(segment).await;
        let known = self.budget.is_verified(&segment.checksum);
        // Held while it is read, so that it is not evicted meanwhile.
        let held = self.budget.held(&segment.checksum);
        let held = held.or_else(|| known.filter(|verified| *verified).and_then(|_| self.hold(&segment.checksum).ok()));
        if known.is_some() && self.verify_file(segment).await {
            return held.map_or_else(|| self.hold(&segment.checksum), Ok).map(CachedSegment::Local);
        }
        let fetched = self.download(segment, RoomUse::Compaction).await?;
        fetched.map(CachedSegment::Local).ok_or_else(|| self.budget.no_room(segment.size))
    }

    /// Whether the object of `segment` is on the disk.
    pub(crate) fn has_file(&self, segment: &SegmentMeta) -> bool {
        self.budget.is_verified(&segment.checksum).is_some()
    }

    /// Moves a file into the cache that was just uploaded as `segment`.
    pub(crate) fn adopt(&self, segment: &SegmentMeta, file: SegmentFile) -> Result<(), EngineError> {
        let target = self.budget.folder().join(&segment.checksum);
        let room = match file {
            SegmentFile::File(LocalFile { path, room }) => {
                path.persist(&target).map_err(|e| disk(&target, e.error))?;
                room.downcast::<DiskReservation>().ok().map(|room| *room)
            }
            SegmentFile::Memory(bytes) => {
                let Some(room) = self.budget.reserve(segment.size, RoomUse::CachedSegment) else { return Ok(()) };
                let mut temporary = NamedTempFile::new_in(self.budget.folder()).map_err(|e| disk(&target, e))?;
                temporary.write_all(&bytes).map_err(|e| disk(&target, e))?;
                temporary.persist(&target).map_err(|e| disk(&target, e.error))?;
                Some(room)
            }
        };
        if let Some(room) = room {
            self.budget.add(&segment.checksum, segment.size, room, Weak::new());
        }
        Ok(())
    }

    /// A file in the folder, memory-mapped.
    pub(crate) fn map(&self, path: &Path) -> Result<FileSlice, EngineError> {
        self.budget.map(path).map_err(|e| disk(path, e))
    }

    /// The object in the store, read by ranges when it is needed. Checks now that it exists and is complete.
    pub(crate) async fn get_ranged(&self, segment: &SegmentMeta) -> Result<CachedSegment, EngineError> {
        match self.store.head(&segment.key).await? {
            Some(info) if info.size == segment.size => {}
            Some(info) => return Err(wrong_size(segment, info.size)),
            None => return Err(EngineError::Gone { key: segment.key.clone() }),
        }
        let file = RangedFile::new(&self.store, segment, &self.blocks, &self.budget)
            .map_err(|e| refused("read by ranges", &e))?;
        Ok(CachedSegment::ranged(file))
    }

    /// As [`Self::get_ranged`], after all bytes were read once and compared with the checksum. Nothing of them is kept.
    pub(crate) async fn get_ranged_verified(&self, segment: &SegmentMeta) -> Result<CachedSegment, EngineError> {
        let Some((object, digest)) = self.store.get_digest(&segment.key, u64::MAX).await? else {
            return Err(EngineError::Gone { key: segment.key.clone() });
        };
        if object.info.size != segment.size {
            return Err(wrong_size(segment, object.info.size));
        }
        check_digest(segment, digest.as_deref().unwrap_or_default())?;
        self.get_ranged(segment).await
    }

    /// Waits until nobody else fetches the object.
    async fn begin_fetch(&self, segment: &SegmentMeta) -> tokio::sync::OwnedMutexGuard<()> {
        let fetching = {
            let mut all = self.fetching.lock();
            // Those that only this map still knows are over.
            all.retain(|_, fetch| Arc::strong_count(fetch) > 1);
            all.entry(segment.checksum.clone()).or_default().clone()
        };
        fetching.lock_owned().await
    }

    /// Whether the file on the disk is what its name says; removes it if it is not.
    async fn verify_file(&self, segment: &SegmentMeta) -> bool {
        let path = self.budget.folder().join(&segment.checksum);
        let found = spawn_blocking({
            let path = path.clone();
            move || checksum_of(&path)
        });
        let right = matches!(found.await, Ok(Ok(found)) if found == segment.checksum);
        if !right {
            tracing::warn!(path = %path.display(), "a cached segment was damaged on the local disk; fetching it again");
            self.budget.remove(&segment.checksum);
        }
        right
    }

    /// The object of `segment`, fetched and verified; `None` if there is no room for it. A full disk is tried once more, with
    /// the room that eviction makes.
    async fn download(&self, segment: &SegmentMeta, usage: RoomUse) -> Result<Option<Arc<HeldFile>>, EngineError> {
        self.damaged.check(&segment.key)?;
        let downloaded = self.download_now(segment, usage).await;
        // Without room nothing was fetched, which says nothing of the object.
        if !matches!(downloaded, Ok(None)) {
            self.damaged.record(&segment.key, downloaded.as_ref().err());
        }
        downloaded
    }

    async fn download_now(&self, segment: &SegmentMeta, usage: RoomUse) -> Result<Option<Arc<HeldFile>>, EngineError> {
        for _ in 0..2 {
            let Some(room) = self.budget.reserve(segment.size, usage) else { return Ok(None) };
            match self.fetch(segment, room).await {
                Ok((path, room)) => {
                    let target = self.budget.folder().join(&segment.checksum);
                    path.persist(&target).map_err(|e| disk(&target, e.error))?;
                    let held = HeldFile::new(self.map(&target)?);
                    self.budget.add(&segment.checksum, segment.size, room, Arc::downgrade(&held));
                    return Ok(Some(held));
                }
                Err(EngineError::Disk { source, .. }) if is_full(&source) => {
                    self.budget.disk_was_full();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The object in a file, whose bytes are those of `room`.
    async fn fetch(
        &self,
        segment: &SegmentMeta,
        room: DiskReservation,
    ) -> Result<(TempPath, DiskReservation), EngineError> {
        let temporary = NamedTempFile::new_in(self.budget.folder()).map_err(|e| disk(self.budget.folder(), e))?;
        let (file, path) = temporary.into_parts();
        let target = Arc::new((file, room));
        let starts = (0..segment.size).step_by(usize::try_from(DOWNLOAD_PART_BYTES).unwrap_or(usize::MAX));
        stream::iter(starts)
            .map(|from| self.fetch_part(segment, from, target.clone()))
            .buffer_unordered(MAX_CONCURRENT_PARTS)
            .try_collect::<()>()
            .await?;
        let of = segment.clone();
        let check = spawn_blocking(move || verify(&path, &of).map(|()| path));
        let path = check.await.map_err(|e| refused("verify a segment", &e))??;
        let (_, room) = Arc::into_inner(target).ok_or_else(|| refused("keep a segment", &"it is still written"))?;
        Ok((path, room))
    }

    async fn fetch_part(
        &self,
        segment: &SegmentMeta,
        from: u64,
        target: Arc<(File, DiskReservation)>,
    ) -> Result<(), EngineError> {
        let to = (from + DOWNLOAD_PART_BYTES).min(segment.size);
        let bytes = match self.store.get_range(&segment.key, from..to).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.why(segment, error).await),
        };
        if bytes.len() as u64 != to - from {
            let why = format!("it ends before byte {to} of {}", segment.size);
            return Err(EngineError::Damaged { key: segment.key.clone(), why });
        }
        spawn_blocking(move || target.1.write_at(&target.0, &bytes, from))
            .await
            .map_err(|e| refused("write to the cache", &e))?
            .map_err(|e| disk(self.budget.folder(), e))
    }

    /// Why a GET failed: the object is gone or too short, or the store fails.
    async fn why(&self, segment: &SegmentMeta, error: tidemark_store::StoreError) -> EngineError {
        match self.store.head(&segment.key).await {
            Ok(None) => EngineError::Gone { key: segment.key.clone() },
            Ok(Some(info)) if info.size != segment.size => wrong_size(segment, info.size),
            _ => error.into(),
        }
    }

    fn hold(&self, checksum: &str) -> Result<Arc<HeldFile>, EngineError> {
        self.budget.hold(checksum).map_err(|e| disk(&self.budget.folder().join(checksum), e))
    }
}

fn wrong_size(segment: &SegmentMeta, found: u64) -> EngineError {
    let why = format!("it has {found} bytes, the manifest says {}", segment.size);
    EngineError::Damaged { key: segment.key.clone(), why }
}

/// The first folder inside of `parent` that no other process has locked.
fn own_folder(parent: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0..MAX_CACHES_PER_FOLDER {
        let folder = parent.join(format!("segments-{number}"));
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => return Ok((folder, lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("all caches in this folder are in use by other processes"))
}

fn checksum_of(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 18];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn verify(path: &Path, segment: &SegmentMeta) -> Result<(), EngineError> {
    check_digest(segment, &checksum_of(path).map_err(|e| disk(path, e))?)
}

fn check_digest(segment: &SegmentMeta, found: &str) -> Result<(), EngineError> {
    if found == segment.checksum {
        return Ok(());
    }
    Err(EngineError::Damaged {
        key: segment.key.clone(),
        why: format!("its SHA-256 is {found}, the manifest says {}", segment.checksum),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use futures::future::join_all;
    use tempfile::TempDir;
    use tidemark_catalog::{RecordCounts, SetDigest};
    use tidemark_wal::Token;
    use tokio_util::task::AbortOnDropHandle;

    use super::{
        super::{metered_store::MeteredStore, testing::folder_bytes},
        *,
    };

    const MIB: u64 = 1 << 20;
    const MIB_LEN: usize = 1 << 20;

    /// An object of `size` bytes in `store`; which ones, `fill` says.
    async fn object(store: &Store, fill: u8, size: u64) -> SegmentMeta {
        let body = vec![fill; usize::try_from(size).unwrap()];
        let (key, checksum) = (format!("object-{fill}"), hex::encode(Sha256::digest(&body)));
        store.put(&key, body.into()).await.unwrap();
        let token = Token::from_bytes([fill; 20]);
        let (digest, counts) = (SetDigest::default(), RecordCounts::default());
        SegmentMeta {
            key,
            size,
            checksum,
            format: 1,
            digest,
            first: token,
            last: token,
            entry_times: token.second()..token.second().next(),
            seq: 1..2,
            counts,
            unsettled: 0,
            documents: 1,
        }
    }

    fn cache(store: &Store, folder: &TempDir, bound: u64) -> Arc<SegmentDiskCache> {
        Arc::new(SegmentDiskCache::open(store.clone(), folder.path(), bound).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn downloads_at_the_same_time_stay_within_the_bound_together() {
        let (store, folder) = (Store::memory(), TempDir::new().unwrap());
        let cache = cache(&store, &folder, 8 * MIB);
        let objects = join_all((0..8).map(|fill| object(&store, fill, 3 * MIB))).await;
        let largest = Arc::new(AtomicU64::new(0));
        let sampling = AbortOnDropHandle::new(spawn_sampling(folder.path().to_owned(), largest.clone()));
        let open = join_all(objects.iter().map(|object| {
            let (cache, object) = (cache.clone(), object.clone());
            async move { tokio::spawn(async move { cache.get(&object).await.unwrap() }).await.unwrap() }
        }))
        .await;
        drop(sampling);
        let local = open.iter().filter(|segment| segment.is_local()).count();
        assert_eq!(local, 2, "they take six of eight parts of the bound");
        assert!(cache.budget().peak() <= 8 * MIB, "{}", cache.budget().peak());
        assert!(largest.load(Ordering::Relaxed) <= 8 * MIB);
        for (object, open) in objects.iter().zip(&open) {
            let (open, size) = (open.file().clone(), object.size);
            let bytes = spawn_blocking(move || open.read_bytes().unwrap()).await.unwrap();
            assert_eq!(bytes.len() as u64, size);
        }
        drop(open);
        assert_eq!(cache.budget().taken(), 6 * MIB, "what was read by ranges left nothing");
        assert_eq!(folder_bytes(folder.path()), 6 * MIB);
        assert!(cache.get(&objects[7]).await.unwrap().is_local(), "what is not in use is evicted");
    }

    fn spawn_sampling(folder: PathBuf, largest: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                largest.fetch_max(folder_bytes(&folder), Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_micros(300)).await;
            }
        })
    }

    #[tokio::test]
    async fn a_full_disk_makes_room_once_and_then_segments_are_read_by_ranges() {
        let (store, folder) = (Store::memory(), TempDir::new().unwrap());
        let cache = cache(&store, &folder, 8 * MIB);
        let (idle, wanted) = (object(&store, 1, MIB).await, object(&store, 2, MIB).await);
        drop(cache.get(&idle).await.unwrap());
        cache.budget().failing_writes.store(1, Ordering::Relaxed);
        let open = cache.get(&wanted).await.unwrap();
        assert!(!open.is_local(), "the disk is as full as what lies in it, which is nothing");
        assert!(!cache.has_file(&idle), "it was evicted");
        assert!(matches!(cache.get_verified(&wanted).await, Err(EngineError::NoRoom { .. })));
        assert_eq!((cache.budget().taken(), folder_bytes(folder.path())), (0, 0));
    }

    #[tokio::test]
    async fn a_compaction_reads_no_file_that_was_damaged_on_the_disk() {
        let (store, folder) = (Store::memory(), TempDir::new().unwrap());
        let cache = cache(&store, &folder, 8 * MIB);
        let object = object(&store, 1, MIB).await;
        drop(cache.get(&object).await.unwrap());
        let path = cache.budget().folder().join(&object.checksum);
        fs::write(&path, vec![2; 1 << 20]).unwrap();
        let again = cache.get_verified(&object).await.unwrap();
        assert_eq!(again.file().read_bytes().unwrap()[..3], [1, 1, 1]);
        drop(again);
        fs::write(&path, vec![2; 1 << 20]).unwrap();
        store.put(&object.key, vec![3; 1 << 20].into()).await.unwrap();
        let error = cache.get_verified(&object).await.err().unwrap();
        assert!(matches!(&error, EngineError::Damaged { key, .. } if *key == object.key), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_object_is_fetched_again_after_longer_and_longer_pauses() {
        let (store, folder) = (Store::memory(), TempDir::new().unwrap());
        let cache = cache(&store, &folder, 8 * MIB);
        let object = object(&store, 1, MIB).await;
        let whole = store.get(&object.key, MIB).await.unwrap().unwrap().body.unwrap();
        let put = |body: Bytes| async { store.put(&object.key, body).await.unwrap() };
        let mut pause = std::time::Duration::from_secs(30);
        for _ in 0..9 {
            put(vec![2; MIB_LEN].into()).await;
            let first = cache.get(&object).await.err().unwrap().to_string();
            assert!(first.contains("its SHA-256 is"), "{first}");
            put(whole.clone()).await;
            tokio::time::advance(pause.saturating_sub(std::time::Duration::from_secs(1))).await;
            assert_eq!(cache.get(&object).await.err().unwrap().to_string(), first, "the same words, without a GET");
            assert!(cache.get_verified(&object).await.is_err());
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            pause = (2 * pause).min(std::time::Duration::from_hours(1));
        }
        assert!(cache.get(&object).await.is_ok(), "it was restored");
    }

    #[tokio::test]
    async fn long_reads_by_ranges_go_to_the_disk_as_far_as_it_has_room_and_short_ones_do_not() {
        let (store, folder) = (Store::memory(), TempDir::new().unwrap());
        let cache = cache(&store, &folder, 8 * MIB);
        let object = object(&store, 1, 16 * MIB).await;
        let remote = cache.get(&object).await.unwrap();
        assert!(!remote.is_local());
        let read = |range: std::ops::Range<usize>| {
            let file = remote.file().slice(range.clone());
            async move {
                let bytes = spawn_blocking(move || file.read_bytes().unwrap()).await.unwrap();
                assert!(bytes.len() == range.len() && bytes.iter().all(|byte| *byte == 1));
                bytes
            }
        };
        read(100..1000).await;
        assert_eq!(cache.budget().taken(), 0, "in memory");
        read(MIB_LEN / 4 - 1000..MIB_LEN / 4 + 1000).await;
        assert_eq!(cache.budget().taken(), 32 << 10, "what is read while it is opened is held");
        remote.end_opening();
        read(100..20_000).await;
        assert_eq!(cache.budget().taken(), 32 << 10, "in memory");
        let held = read(MIB_LEN - 10..3 * MIB_LEN).await;
        let pieces = 2 * MIB + (48 << 10);
        assert_eq!(cache.budget().taken(), pieces, "with the piece that it begins in");
        read(MIB_LEN..2 * MIB_LEN).await;
        assert_eq!(cache.budget().taken(), pieces, "nothing is fetched twice");
        assert_eq!(folder_bytes(folder.path()), pieces, "what was not read takes nothing");
        read(0..16 * MIB_LEN).await;
        assert!(cache.budget().peak() <= 4 * MIB, "four eighths are left");
        let new = self::object(&store, 2, cache.budget().max_compaction_bytes()).await;
        assert!(cache.get(&new).await.unwrap().is_local(), "they do not keep a new segment off the disk");
        drop(remote);
        assert_eq!(cache.budget().taken(), new.size);
        assert_eq!(held[0], 1, "what is mapped outlives its file");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_of_different_parts_of_a_segment_do_not_wait_for_one_another() {
        let (metered, folder) = (MeteredStore::default(), TempDir::new().unwrap());
        let store = metered.store();
        let cache = cache(&store, &folder, 8 * MIB);
        let object = object(&store, 1, 16 * MIB).await;
        let remote = cache.get(&object).await.unwrap();
        remote.end_opening();
        metered.take_counts();
        metered.hold(|range| range.start < MIB);
        let read = |start: usize| {
            let file = remote.file().slice(start..start + MIB_LEN / 4);
            spawn_blocking(move || file.read_bytes().unwrap().len())
        };
        let wait = std::time::Duration::from_secs(90);
        let (slow, same) = (read(0), read(0));
        metered.wait_for_held(1).await;
        let other = tokio::time::timeout(wait, read(4 * MIB_LEN)).await.expect("it waits for no other part");
        assert_eq!(other.unwrap(), MIB_LEN / 4);
        assert!(!slow.is_finished() && !same.is_finished());
        metered.release();
        assert_eq!((slow.await.unwrap(), same.await.unwrap()), (MIB_LEN / 4, MIB_LEN / 4));
        assert_eq!(metered.take_counts().requests, 2, "nothing is fetched twice");
    }
}
