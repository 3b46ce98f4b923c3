//! Whole segment objects on the local disk: fetched once, verified, memory-mapped, evicted by age of use.
//!
//! Files are named by the SHA-256 of their content, so a file is either right or refused. A file that somebody holds is
//! never evicted; a segment that does not fit beside those is read by ranges, and a warning says so.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tantivy::directory::{Directory, FileSlice, MmapDirectory};
use tempfile::{NamedTempFile, TempPath};
use tidemark_catalog::SegmentMeta;
use tidemark_store::Store;
use tokio::task::spawn_blocking;

use super::remote::{Blocks, RemoteFile};
use tidemark_ingest::engine::{EngineError, SegmentFile};

/// Bytes of one GET of a download.
const PART: u64 = 8 << 20;
/// GETs at once for one object.
const PARTS_AT_ONCE: usize = 4;
/// Bytes of memory for segments that are read by ranges.
const BLOCKS: usize = 64 << 20;
/// How many caches may share a folder: each process takes the first that is free.
const CACHES_IN_A_FOLDER: u32 = 64;

/// A bounded folder of segment objects. One process a folder.
pub(crate) struct Cache {
    store: Store,
    folder: PathBuf,
    files: MmapDirectory,
    bound: u64,
    blocks: Arc<Blocks>,
    state: Mutex<State>,
    _lock: File,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    fetching: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    clock: u64,
    warned: bool,
}

struct Entry {
    size: u64,
    used: u64,
    /// Whether this process knows that the content is right.
    verified: bool,
    held: Weak<Cached>,
}

/// A verified object on the local disk, which stays there at least as long as this value; or one that is read by ranges.
pub(crate) struct Cached {
    file: FileSlice,
}

impl Cached {
    /// The bytes: memory-mapped, or fetched when they are read.
    pub(crate) fn file(&self) -> &FileSlice {
        &self.file
    }
}

impl Cache {
    /// A cache of `bound` bytes for objects of `store`, in a folder of its own inside of `parent`.
    ///
    /// What an earlier process left there is used again, after it was verified.
    pub(crate) fn open(store: Store, parent: &Path, bound: u64) -> Result<Self, EngineError> {
        let (folder, lock) = own_folder(parent).map_err(|e| disk(parent, e))?;
        let files = MmapDirectory::open(&folder).map_err(|e| disk(&folder, io::Error::other(e)))?;
        let entries = left_over(&folder).map_err(|e| disk(&folder, e))?;
        Ok(Self {
            store,
            folder,
            files,
            bound,
            blocks: Arc::new(Blocks::new(BLOCKS)),
            state: Mutex::new(State { clock: entries.len() as u64, entries, ..State::default() }),
            _lock: lock,
        })
    }

    /// The folder, for temporary files that may be moved into the cache.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The object of `segment`, from the disk or fetched from the store, and verified.
    pub(crate) async fn get(self: &Arc<Self>, segment: &SegmentMeta) -> Result<Arc<Cached>, EngineError> {
        if let Some(held) = self.held(&segment.checksum) {
            return Ok(held);
        }
        let fetching = self.state().fetching.entry(segment.checksum.clone()).or_default().clone();
        let _one_at_a_time = fetching.lock().await;
        if let Some(held) = self.held(&segment.checksum) {
            return Ok(held);
        }
        let result = self.open_or_fetch(segment).await;
        self.state().fetching.remove(&segment.checksum);
        result
    }

    /// Takes over a file that was just packed and uploaded as `segment`.
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

    async fn open_or_fetch(self: &Arc<Self>, segment: &SegmentMeta) -> Result<Arc<Cached>, EngineError> {
        let known = self.state().entries.get(&segment.checksum).map(|entry| entry.verified);
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
            return self.remote(segment).await;
        }
        let path = self.fetch(segment).await?;
        let target = self.folder.join(&segment.checksum);
        path.persist(&target).map_err(|e| disk(&target, e.error))?;
        self.hold(&segment.checksum, segment.size)
    }

    /// The object in the store, read when it is needed. That it is there and complete is seen now.
    async fn remote(&self, segment: &SegmentMeta) -> Result<Arc<Cached>, EngineError> {
        match self.store.head(&segment.key).await? {
            Some(info) if info.size == segment.size => {}
            Some(info) => return Err(wrong_size(segment, info.size)),
            None => return Err(EngineError::Gone { key: segment.key.clone() }),
        }
        let file = RemoteFile::new(&self.store, segment, &self.blocks).map_err(|e| refused("read by ranges", &e))?;
        Ok(Arc::new(Cached { file: FileSlice::new(Arc::new(file)) }))
    }

    /// Whether the file on the disk is what its name says; removes it if it is not.
    fn verify_left_over(&self, segment: &SegmentMeta) -> bool {
        let path = self.folder.join(&segment.checksum);
        let right = checksum_of(&path).is_ok_and(|found| found == segment.checksum);
        if !right {
            tracing::warn!(path = %path.display(), "a cached segment was damaged on the local disk, it is fetched again");
            let _ = fs::remove_file(&path);
            self.state().entries.remove(&segment.checksum);
        }
        right
    }

    async fn fetch(&self, segment: &SegmentMeta) -> Result<TempPath, EngineError> {
        let temporary = NamedTempFile::new_in(&self.folder).map_err(|e| disk(&self.folder, e))?;
        let (file, path) = temporary.into_parts();
        let file = Arc::new(file);
        let starts = (0..segment.size).step_by(usize::try_from(PART).unwrap_or(usize::MAX));
        stream::iter(starts)
            .map(|from| self.fetch_part(segment, from, file.clone()))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let of = segment.clone();
        let check = spawn_blocking(move || verify(&path, &of).map(|()| path));
        check.await.map_err(|e| refused("verify a segment", &e))?
    }

    async fn fetch_part(&self, segment: &SegmentMeta, from: u64, file: Arc<File>) -> Result<(), EngineError> {
        let to = (from + PART).min(segment.size);
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

    /// Tells an object that is gone or too short from a store that fails.
    async fn why(&self, segment: &SegmentMeta, error: tidemark_store::StoreError) -> EngineError {
        match self.store.head(&segment.key).await {
            Ok(None) => EngineError::Gone { key: segment.key.clone() },
            Ok(Some(info)) if info.size != segment.size => wrong_size(segment, info.size),
            _ => error.into(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, checksum: &str) -> Option<Arc<Cached>> {
        let mut state = self.state();
        state.clock += 1;
        let now = state.clock;
        let entry = state.entries.get_mut(checksum)?;
        let held = entry.held.upgrade()?;
        entry.used = now;
        Some(held)
    }

    fn hold(&self, checksum: &str, size: u64) -> Result<Arc<Cached>, EngineError> {
        let file = self
            .files
            .open_read(Path::new(checksum))
            .map_err(|e| disk(&self.folder.join(checksum), io::Error::other(e)))?;
        let cached = Arc::new(Cached { file });
        let mut state = self.state();
        state.clock += 1;
        let entry = Entry { size, used: state.clock, verified: true, held: Arc::downgrade(&cached) };
        state.entries.insert(checksum.to_owned(), entry);
        Ok(cached)
    }

    /// Evicts what was not used for longest until `wanted` more bytes fit. False if they do not fit beside what is held.
    fn make_room(&self, wanted: u64) -> bool {
        let mut state = self.state();
        let total: u64 = state.entries.values().map(|entry| entry.size).sum();
        let idle = state.entries.iter().filter(|(_, entry)| entry.held.strong_count() == 0);
        let idle_bytes: u64 = idle.clone().map(|(_, entry)| entry.size).sum();
        if total - idle_bytes + wanted > self.bound {
            state.warn(&self.folder, self.bound);
            return false;
        }
        let by_age: BTreeMap<u64, String> = idle.map(|(name, entry)| (entry.used, name.clone())).collect();
        let mut excess = (total + wanted).saturating_sub(self.bound);
        for name in by_age.into_values() {
            if excess == 0 {
                break;
            }
            if fs::remove_file(self.folder.join(&name)).is_ok()
                && let Some(entry) = state.entries.remove(&name)
            {
                excess = excess.saturating_sub(entry.size);
            }
        }
        excess == 0
    }
}

impl State {
    fn warn(&mut self, folder: &Path, bound: u64) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                folder = %folder.display(), bound,
                "the segments in use are larger than the cache's bound, the rest is read by ranges and slowly; raise the bound"
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
    for number in 0..CACHES_IN_A_FOLDER {
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
fn left_over(folder: &Path) -> io::Result<HashMap<String, Entry>> {
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
    let entries = found.into_iter().zip(0..).map(|((_, name, size), used)| {
        let held = Weak::new();
        (name, Entry { size, used, verified: false, held })
    });
    Ok(entries.collect())
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

pub(crate) fn disk(path: &Path, source: io::Error) -> EngineError {
    EngineError::Disk { path: path.display().to_string(), source }
}

pub(crate) fn refused(what: &str, why: &impl ToString) -> EngineError {
    EngineError::Refused { what: what.to_owned(), why: why.to_string() }
}
