//! Whole segment objects on the local disk: fetched once, verified, memory-mapped, evicted by age of use.
//!
//! Files are named by the SHA-256 of their content, so a file is either right or refused. A file that somebody holds is
//! never evicted; when what is held exceeds the bound, the bound is exceeded and a warning says so.

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
use tidemark_catalog::Segment;
use tidemark_wal::Store;
use tokio::task::spawn_blocking;

use crate::engine::{EngineError, PackedFile};

/// Bytes of one GET of a download.
const PART: u64 = 8 << 20;
/// GETs at once for one object.
const PARTS_AT_ONCE: usize = 4;
/// How many caches may share a folder: each process takes the first that is free.
const CACHES_IN_A_FOLDER: u32 = 64;

/// A bounded folder of segment objects. One process a folder.
pub(crate) struct Cache {
    store: Store,
    folder: PathBuf,
    files: MmapDirectory,
    bound: u64,
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
    held: Weak<Cached>,
}

/// A verified object on the local disk. It stays there at least as long as this value.
pub(crate) struct Cached {
    file: FileSlice,
}

impl Cached {
    /// The memory-mapped bytes.
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
            state: Mutex::new(State { clock: entries.len() as u64, entries, ..State::default() }),
            _lock: lock,
        })
    }

    /// The folder, for temporary files that may be moved into the cache.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The object of `segment`, from the disk or fetched from the store, and verified.
    pub(crate) async fn get(self: &Arc<Self>, segment: &Segment) -> Result<Arc<Cached>, EngineError> {
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
    pub(crate) fn adopt(&self, segment: &Segment, file: PackedFile) -> Result<(), EngineError> {
        self.make_room(segment.size);
        let target = self.folder.join(&segment.checksum);
        match file {
            PackedFile::File(path) => path.persist(&target).map_err(|e| disk(&target, e.error))?,
            PackedFile::Memory(bytes) => {
                let mut temporary = NamedTempFile::new_in(&self.folder).map_err(|e| disk(&target, e))?;
                io::Write::write_all(&mut temporary, &bytes).map_err(|e| disk(&target, e))?;
                temporary.persist(&target).map_err(|e| disk(&target, e.error))?;
            }
        }
        self.hold(&segment.checksum, segment.size)?;
        Ok(())
    }

    async fn open_or_fetch(self: &Arc<Self>, segment: &Segment) -> Result<Arc<Cached>, EngineError> {
        if self.state().entries.contains_key(&segment.checksum) {
            let (this, of) = (self.clone(), segment.clone());
            if let Ok(true) = spawn_blocking(move || this.verify_left_over(&of)).await {
                return self.hold(&segment.checksum, segment.size);
            }
        }
        self.make_room(segment.size);
        let path = self.fetch(segment).await?;
        let target = self.folder.join(&segment.checksum);
        path.persist(&target).map_err(|e| disk(&target, e.error))?;
        self.hold(&segment.checksum, segment.size)
    }

    /// Whether the file on the disk is what its name says; removes it if it is not.
    fn verify_left_over(&self, segment: &Segment) -> bool {
        let path = self.folder.join(&segment.checksum);
        let right = checksum_of(&path).is_ok_and(|found| found == segment.checksum);
        if !right {
            tracing::warn!(path = %path.display(), "a cached segment was damaged on the local disk, it is fetched again");
            let _ = fs::remove_file(&path);
            self.state().entries.remove(&segment.checksum);
        }
        right
    }

    async fn fetch(&self, segment: &Segment) -> Result<TempPath, EngineError> {
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

    async fn fetch_part(&self, segment: &Segment, from: u64, file: Arc<File>) -> Result<(), EngineError> {
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
    async fn why(&self, segment: &Segment, error: tidemark_wal::StoreError) -> EngineError {
        match self.store.head(&segment.key).await {
            Ok(None) => EngineError::Gone { key: segment.key.clone() },
            Ok(Some(info)) if info.size != segment.size => EngineError::Damaged {
                key: segment.key.clone(),
                why: format!("it has {} bytes, the manifest says {}", info.size, segment.size),
            },
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
        let entry = Entry { size, used: state.clock, held: Arc::downgrade(&cached) };
        state.entries.insert(checksum.to_owned(), entry);
        Ok(cached)
    }

    /// Evicts what was not used for longest until `wanted` more bytes fit, or nothing is left that nobody holds.
    fn make_room(&self, wanted: u64) {
        let mut state = self.state();
        let total: u64 = state.entries.values().map(|entry| entry.size).sum();
        let mut excess = (total + wanted).saturating_sub(self.bound);
        let idle = state.entries.iter().filter(|(_, entry)| entry.held.strong_count() == 0);
        let by_age: BTreeMap<u64, String> = idle.map(|(name, entry)| (entry.used, name.clone())).collect();
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
        if excess > 0 && !state.warned {
            state.warned = true;
            tracing::warn!(
                folder = %self.folder.display(), bound = self.bound, needed = total + wanted,
                "the segments in use are larger than the cache's bound, which is exceeded; raise the bound"
            );
        }
    }
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
        (name, Entry { size, used, held })
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

fn verify(path: &Path, segment: &Segment) -> Result<(), EngineError> {
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
