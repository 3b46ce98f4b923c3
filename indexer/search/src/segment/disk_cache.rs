//! Whole segment objects on the local disk: fetched once, verified, memory-mapped, evicted least recently used first.
//!
//! Files are named by the SHA-256 of their content, so a file is either right or refused. A file that is in use is never
//! evicted; a segment that does not fit beside those is read by ranges, and a warning says so. The order of use is the `lru`
//! crate's; what to evict is decided here, since no crate knows which files are in use.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use futures::{StreamExt, TryStreamExt, stream};
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tantivy::directory::{Directory, FileSlice, MmapDirectory};
use tempfile::{NamedTempFile, TempPath};
use tidemark_catalog::SegmentMeta;
use tidemark_store::Store;
use tokio::task::spawn_blocking;

use super::{
    engine_error::{disk, refused},
    ranged_file::{BlockCache, RangedFile},
};
use tidemark_ingest::engine::{EngineError, SegmentFile};

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
    folder: PathBuf,
    files: MmapDirectory,
    bound: u64,
    blocks: Arc<BlockCache>,
    state: Mutex<CacheState>,
    _lock: File,
}

struct CacheState {
    /// By checksum, in the order of use.
    entries: LruCache<String, CacheEntry>,
    fetching: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    warned: bool,
}

struct CacheEntry {
    size: u64,
    /// Whether this process knows that the content is right.
    verified: bool,
    held: Weak<CachedSegment>,
}

/// A verified object on the local disk, which is not evicted while this value lives; or one that is read by ranges.
pub(crate) struct CachedSegment {
    file: FileSlice,
}

impl CachedSegment {
    /// The bytes: memory-mapped, or fetched when they are read.
    pub(crate) fn file(&self) -> &FileSlice {
        &self.file
    }
}

impl SegmentDiskCache {
    /// A cache of `bound` bytes for objects of `store`, in a folder of its own inside of `parent`.
    ///
    /// Files of an earlier process are used again once they are verified.
    pub(crate) fn open(store: Store, parent: &Path, bound: u64) -> Result<Self, EngineError> {
        let (folder, lock) = own_folder(parent).map_err(|e| disk(parent, e))?;
        let files = MmapDirectory::open(&folder).map_err(|e| disk(&folder, io::Error::other(e)))?;
        let entries = left_over(&folder).map_err(|e| disk(&folder, e))?;
        Ok(Self {
            store,
            folder,
            files,
            bound,
            blocks: Arc::new(BlockCache::new(BLOCK_CACHE_BYTES)),
            state: Mutex::new(CacheState { entries, fetching: HashMap::new(), warned: false }),
            _lock: lock,
        })
    }

    /// The folder, for temporary files that may be moved into the cache.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The object of `segment`, from the disk or fetched from the store, and verified.
    pub(crate) async fn get(self: &Arc<Self>, segment: &SegmentMeta) -> Result<Arc<CachedSegment>, EngineError> {
        if let Some(held) = self.held(&segment.checksum) {
            return Ok(held);
        }
        let fetching = self.state.lock().fetching.entry(segment.checksum.clone()).or_default().clone();
        let _one_at_a_time = fetching.lock().await;
        if let Some(held) = self.held(&segment.checksum) {
            return Ok(held);
        }
        let result = self.open_or_fetch(segment).await;
        self.state.lock().fetching.remove(&segment.checksum);
        result
    }

    /// Moves a file into the cache that was just uploaded as `segment`.
    pub(crate) fn adopt(&self, segment: &SegmentMeta, file: SegmentFile) -> Result<(), EngineError> {
        if !self.make_room(segment.size) {
            return Ok(());
        }
        let target = self.folder.join(&segment.checksum);
        match file {
            SegmentFile::File(path) => path.persist(&target).map_err(|e| disk(&target, e.error))?,
            SegmentFile::Memory(bytes) => {
                let mut temporary = NamedTempFile::new_in(&self.folder).map_err(|e| disk(&target, e))?;
                io::Write::write_all(&mut temporary, &bytes).map_err(|e| disk(&target, e))?;
                temporary.persist(&target).map_err(|e| disk(&target, e.error))?;
            }
        }
        self.hold(&segment.checksum, segment.size)?;
        Ok(())
    }

    async fn open_or_fetch(self: &Arc<Self>, segment: &SegmentMeta) -> Result<Arc<CachedSegment>, EngineError> {
        let known = self.state.lock().entries.peek(&segment.checksum).map(|entry| entry.verified);
        let right = match known {
            Some(true) => true,
            Some(false) => {
                let (this, of) = (self.clone(), segment.clone());
                spawn_blocking(move || this.verify_left_over(&of)).await.unwrap_or(false)
            }
            None => false,
        };
        if right {
            return self.hold(&segment.checksum, segment.size);
        }
        if !self.make_room(segment.size) {
            return self.ranged_file(segment).await;
        }
        let path = self.fetch(segment).await?;
        let target = self.folder.join(&segment.checksum);
        path.persist(&target).map_err(|e| disk(&target, e.error))?;
        self.hold(&segment.checksum, segment.size)
    }

    /// The object in the store, read by ranges when it is needed. Checks now that it exists and is complete.
    async fn ranged_file(&self, segment: &SegmentMeta) -> Result<Arc<CachedSegment>, EngineError> {
        match self.store.head(&segment.key).await? {
            Some(info) if info.size == segment.size => {}
            Some(info) => return Err(wrong_size(segment, info.size)),
            None => return Err(EngineError::Gone { key: segment.key.clone() }),
        }
        let file = RangedFile::new(&self.store, segment, &self.blocks).map_err(|e| refused("read by ranges", &e))?;
        Ok(Arc::new(CachedSegment { file: FileSlice::new(Arc::new(file)) }))
    }

    /// Whether the file on the disk is what its name says; removes it if it is not.
    fn verify_left_over(&self, segment: &SegmentMeta) -> bool {
        let path = self.folder.join(&segment.checksum);
        let right = checksum_of(&path).is_ok_and(|found| found == segment.checksum);
        if !right {
            tracing::warn!(path = %path.display(), "a cached segment was damaged on the local disk; fetching it again");
            let _ = fs::remove_file(&path);
            self.state.lock().entries.pop(&segment.checksum);
        }
        right
    }

    async fn fetch(&self, segment: &SegmentMeta) -> Result<TempPath, EngineError> {
        let temporary = NamedTempFile::new_in(&self.folder).map_err(|e| disk(&self.folder, e))?;
        let (file, path) = temporary.into_parts();
        let file = Arc::new(file);
        let starts = (0..segment.size).step_by(usize::try_from(DOWNLOAD_PART_BYTES).unwrap_or(usize::MAX));
        stream::iter(starts)
            .map(|from| self.fetch_part(segment, from, file.clone()))
            .buffer_unordered(MAX_CONCURRENT_PARTS)
            .try_collect::<()>()
            .await?;
        let of = segment.clone();
        let check = spawn_blocking(move || verify(&path, &of).map(|()| path));
        check.await.map_err(|e| refused("verify a segment", &e))?
    }

    async fn fetch_part(&self, segment: &SegmentMeta, from: u64, file: Arc<File>) -> Result<(), EngineError> {
        let to = (from + DOWNLOAD_PART_BYTES).min(segment.size);
        let bytes = match self.store.get_range(&segment.key, from..to).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.why(segment, error).await),
        };
        if bytes.len() as u64 != to - from {
            let why = format!("it ends before byte {to} of {}", segment.size);
            return Err(EngineError::Damaged { key: segment.key.clone(), why });
        }
        let path = self.folder.clone();
        spawn_blocking(move || file.write_all_at(&bytes, from))
            .await
            .map_err(|e| refused("write to the cache", &e))?
            .map_err(|e| disk(&path, e))
    }

    /// Why a GET failed: the object is gone or too short, or the store fails.
    async fn why(&self, segment: &SegmentMeta, error: tidemark_store::StoreError) -> EngineError {
        match self.store.head(&segment.key).await {
            Ok(None) => EngineError::Gone { key: segment.key.clone() },
            Ok(Some(info)) if info.size != segment.size => wrong_size(segment, info.size),
            _ => error.into(),
        }
    }

    fn held(&self, checksum: &str) -> Option<Arc<CachedSegment>> {
        self.state.lock().entries.get(checksum)?.held.upgrade()
    }

    fn hold(&self, checksum: &str, size: u64) -> Result<Arc<CachedSegment>, EngineError> {
        let file = self
            .files
            .open_read(Path::new(checksum))
            .map_err(|e| disk(&self.folder.join(checksum), io::Error::other(e)))?;
        let cached = Arc::new(CachedSegment { file });
        let entry = CacheEntry { size, verified: true, held: Arc::downgrade(&cached) };
        self.state.lock().entries.put(checksum.to_owned(), entry);
        Ok(cached)
    }

    /// Evicts what was not used for longest until `wanted` more bytes fit. False if they do not fit beside what is in use.
    fn make_room(&self, wanted: u64) -> bool {
        let mut state = self.state.lock();
        let is_idle = |entry: &CacheEntry| entry.held.strong_count() == 0;
        let total: u64 = state.entries.iter().map(|(_, entry)| entry.size).sum();
        let in_use: u64 = state.entries.iter().filter(|(_, entry)| !is_idle(entry)).map(|(_, entry)| entry.size).sum();
        if in_use + wanted > self.bound {
            state.warn(&self.folder, self.bound);
            return false;
        }
        let mut excess = (total + wanted).saturating_sub(self.bound);
        // The crate iterates from the most recently used on.
        let idle = state.entries.iter().rev().filter(|(_, entry)| is_idle(entry));
        for name in idle.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if excess == 0 {
                break;
            }
            if fs::remove_file(self.folder.join(&name)).is_ok()
                && let Some(entry) = state.entries.pop(&name)
            {
                excess = excess.saturating_sub(entry.size);
            }
        }
        excess == 0
    }
}

impl CacheState {
    fn warn(&mut self, folder: &Path, bound: u64) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                folder = %folder.display(), bound,
                "the segments in use are larger than the cache; the rest is read by ranges, which is slow; raise the bound"
            );
        }
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
        let lock = File::create(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => return Ok((folder, lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("all caches in this folder are in use by other processes"))
}

/// Objects that an earlier process left, oldest first; anything else in the folder is removed.
fn left_over(folder: &Path) -> io::Result<LruCache<String, CacheEntry>> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder)? {
        let item = item?;
        let name = item.file_name().to_string_lossy().into_owned();
        let meta = item.metadata()?;
        if name.len() == 64 && meta.is_file() {
            found.push((meta.modified()?, name, meta.len()));
        } else if meta.is_dir() {
            fs::remove_dir_all(item.path())?;
        } else if name != "lock" {
            fs::remove_file(item.path())?;
        }
    }
    found.sort();
    let mut entries = LruCache::unbounded();
    for (_, name, size) in found {
        entries.put(name, CacheEntry { size, verified: false, held: Weak::new() });
    }
    Ok(entries)
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
    let found = checksum_of(path).map_err(|e| disk(path, e))?;
    if found == segment.checksum {
        return Ok(());
    }
    Err(EngineError::Damaged {
        key: segment.key.clone(),
        why: format!("its SHA-256 is {found}, the manifest says {}", segment.checksum),
    })
}
