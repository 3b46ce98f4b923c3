//! How many bytes of the cache folder are taken and by what. Nothing is written there before its bytes are reserved.
//!
//! | use | may take the folder up to | once this process builds segments |
//! |---|---|---|
//! | [`RoomUse::CachedSegment`] | 6/8 of the bound | 4/8 |
//! | [`RoomUse::RemoteRead`] | 4/8 | 2/8 |
//! | [`RoomUse::RemoteColumns`] | 7/8 | 5/8 |
//! | [`RoomUse::Compaction`] | 7/8 | 7/8 |
//! | [`RoomUse::NewSegment`] | 8/8 | 8/8 |
//!
//! So segments in use keep neither a new one from being built nor all compactions from being made. For each of these uses, unused
//! segments are evicted, least recently used first. The order of use is the `lru` crate's; what to evict is decided here,
//! since no crate knows which files are in use.

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use lru::LruCache;
use parking_lot::Mutex;
use tantivy::directory::{Directory, FileSlice, MmapDirectory};
use tidemark_ingest::engine::EngineError;
use tokio::time::Instant;

/// How long a disk that was full counts as smaller than the bound.
const FULL_DISK_INTERVAL: Duration = Duration::from_mins(10);
/// The name of the file that keeps other processes out.
pub(crate) const LOCK_FILE: &str = "lock";
/// Length of a name that is a SHA-256 in hexadecimal digits.
const CHECKSUM_CHARS: usize = 64;

/// What bytes are reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomUse {
    /// A whole segment that is opened.
    CachedSegment,
    /// A compaction: inputs that are fetched for it, its scratch files and its output.
    Compaction,
    /// Parts of a segment that is read by ranges, which a query or look-up reads.
    RemoteRead,
    /// Parts of a segment that is read by ranges, which are held as long as it is open.
    RemoteColumns,
    /// A segment that is built from records: its scratch files and its output.
    NewSegment,
}

/// The bytes of one cache folder.
pub(crate) struct DiskBudget {
    folder: PathBuf,
    bound: u64,
    state: Mutex<BudgetState>,
    /// How many further writes fail as on a full disk.
    #[cfg(test)]
    pub(crate) failing_writes: AtomicUsize,
}

struct BudgetState {
    /// By checksum, in the order of use.
    files: LruCache<String, CachedFile>,
    reserved: u64,
    /// Whether this process builds segments.
    builds: bool,
    /// Less than the bound, until a moment: the disk was full.
    lowered: Option<(u64, Instant)>,
    warned: bool,
    /// The most bytes that were ever taken.
    #[cfg(test)]
    peak: u64,
}

struct CachedFile {
    size: u64,
    /// Whether this process knows that the content is right.
    verified: bool,
    held: Weak<HeldFile>,
}

/// A verified file of the folder, memory-mapped. It is not evicted while this value lives.
pub(crate) struct HeldFile(FileSlice);

impl HeldFile {
    pub(crate) fn new(mapped: FileSlice) -> Arc<Self> {
        Arc::new(Self(mapped))
    }

    /// The bytes, of which the value does not keep the file.
    pub(crate) fn file(&self) -> &FileSlice {
        &self.0
    }
}

impl CachedFile {
    fn is_idle(&self) -> bool {
        self.held.strong_count() == 0
    }
}

impl DiskBudget {
    /// The budget of `folder`, with the segments that an earlier process left, as far as they fit into `bound`. Anything else
    /// in the folder is removed.
    pub(crate) fn open(folder: &Path, bound: u64) -> io::Result<Arc<Self>> {
        let state = BudgetState {
            files: left_over(folder)?,
            reserved: 0,
            builds: false,
            lowered: None,
            warned: false,
            #[cfg(test)]
            peak: 0,
        };
        let budget = Self {
            folder: folder.to_owned(),
            bound,
            state: Mutex::new(state),
            #[cfg(test)]
            failing_writes: AtomicUsize::new(0),
        };
        budget.evict_above(&mut budget.state.lock(), bound);
        Ok(Arc::new(budget))
    }

    /// The folder whose bytes these are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on room is held back for segments that are built here.
    pub(crate) fn expect_builds(&self) {
        self.state.lock().builds = true;
    }

    /// The bytes that `usage` may fill the folder up to.
    pub(crate) fn limit(&self, usage: RoomUse) -> u64 {
        self.limit_in(&self.state.lock(), usage)
    }

    /// The bytes that open segments should take in all: whole ones, and what is held of others.
    pub(crate) fn open_limit(&self) -> u64 {
        let state = self.state.lock();
        self.limit_in(&state, if state.builds { RoomUse::CachedSegment } else { RoomUse::RemoteColumns })
    }

    /// The largest output that a compaction may have. Open segments take half of the bound, as long as the columns of those in the
    /// store fit into that, and a compaction three eighths: its inputs, which may all be in the store, and one and a half times as
    /// much for scratch and output.
    pub(crate) fn max_compaction_bytes(&self) -> u64 {
        self.bound / 7
    }

    /// Reserves `bytes`, evicting what is not in use. `None` if they do not fit beside what is in use and reserved.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, usage: RoomUse) -> Option<DiskReservation> {
        self.take(bytes, usage).then(|| DiskReservation { budget: self.clone(), bytes })
    }

    /// As [`Self::reserve`], with an error that says what to do.
    pub(crate) fn require(self: &Arc<Self>, bytes: u64, usage: RoomUse) -> Result<DiskReservation, EngineError> {
        self.reserve(bytes, usage).ok_or_else(|| self.no_room(bytes))
    }

    /// The error of a reservation that does not fit.
    pub(crate) fn no_room(&self, needed: u64) -> EngineError {
        EngineError::NoRoom { folder: self.folder.display().to_string(), needed, bound: self.bound }
    }

    fn take(&self, bytes: u64, usage: RoomUse) -> bool {
        let mut state = self.state.lock();
        let in_use = state.in_use();
        if in_use.saturating_add(bytes) > self.limit_in(&state, usage) {
            if usage == RoomUse::CachedSegment {
                state.warn(&self.folder, self.bound);
            }
            return false;
        }
        let bound = self.limit_in(&state, RoomUse::NewSegment);
        if !self.evict_above(&mut state, bound.saturating_sub(bytes)) {
            return false;
        }
        state.reserved += bytes;
        #[cfg(test)]
        {
            state.peak = state.peak.max(state.taken());
        }
        true
    }

    fn limit_in(&self, state: &BudgetState, usage: RoomUse) -> u64 {
        let lowered = state.lowered.filter(|(_, until)| Instant::now() < *until).map_or(u64::MAX, |(bound, _)| bound);
        let bound = self.bound.min(lowered);
        // What is held as long as a segment is open must leave room for compactions: without them there are ever more segments.
        let eighths = match (usage, state.builds) {
            // What was read by ranges is given back when its segment is closed, so it leaves room for the largest segment that a
            // compaction makes: new segments are read from the local disk.
            (RoomUse::RemoteRead, true) => 2,
            (RoomUse::CachedSegment, true) | (RoomUse::RemoteRead, false) => 4,
            (RoomUse::RemoteColumns, true) => 5,
            (RoomUse::CachedSegment, false) => 6,
            (RoomUse::RemoteColumns, false) | (RoomUse::Compaction, _) => 7,
            (RoomUse::NewSegment, _) => 8,
        };
        bound / 8 * eighths + bound % 8 * eighths / 8
    }

    /// Evicts what is not in use until at most `bound` bytes are taken. Whether that succeeded.
    fn evict_above(&self, state: &mut BudgetState, bound: u64) -> bool {
        let mut taken = state.taken();
        if taken <= bound {
            return true;
        }
        // The crate iterates from the most recently used on.
        let idle = state.files.iter().rev().filter(|(_, file)| file.is_idle());
        for name in idle.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if taken <= bound {
                break;
            }
            if fs::remove_file(self.folder.join(&name)).is_ok()
                && let Some(file) = state.files.pop(&name)
            {
                taken -= file.size;
            }
        }
        taken <= bound
    }

    /// The disk has less room than the bound says: evicts what is not in use, and takes what is left for the bound for a while.
    pub(crate) fn disk_was_full(&self) {
        let mut state = self.state.lock();
        self.evict_above(&mut state, 0);
        let taken = state.taken();
        state.lowered = Some((taken, Instant::now() + FULL_DISK_INTERVAL));
        tracing::warn!(
            folder = %self.folder.display(), bound = self.bound, taken,
            "the disk is full before the cache reaches its bound; less is kept and compacted; free space or lower the bound"
        );
    }

    /// A file in the folder, memory-mapped.
    ///
    /// By a directory of its own: one that is shared gives the old file again when it is replaced while it is mapped.
    pub(crate) fn map(&self, path: &Path) -> io::Result<FileSlice> {
        let files = MmapDirectory::open(&self.folder).map_err(io::Error::other)?;
        files.open_read(Path::new(path.file_name().unwrap_or_default())).map_err(io::Error::other)
    }

    /// The file of that name, if it is in use.
    pub(crate) fn held(&self, name: &str) -> Option<Arc<HeldFile>> {
        self.state.lock().files.get(name)?.held.upgrade()
    }

    /// Whether the file of that name is right, as far as this process knows; `None` if there is none.
    pub(crate) fn is_verified(&self, name: &str) -> Option<bool> {
        self.state.lock().files.peek(name).map(|file| file.verified)
    }

    /// A file of that name lies in the folder now, in the bytes of `room`; it is right, and `held` uses it.
    pub(crate) fn add(&self, name: &str, size: u64, room: DiskReservation, held: Weak<HeldFile>) {
        let mut state = self.state.lock();
        state.reserved -= room.forget();
        state.files.put(name.to_owned(), CachedFile { size, verified: true, held });
    }

    /// The file of that name, which is right and in use from now on.
    pub(crate) fn hold(&self, name: &str) -> io::Result<Arc<HeldFile>> {
        let held = HeldFile::new(self.map(&self.folder.join(name))?);
        if let Some(file) = self.state.lock().files.get_mut(name) {
            file.verified = true;
            file.held = Arc::downgrade(&held);
        }
        Ok(held)
    }

    /// Removes the file of that name.
    pub(crate) fn remove(&self, name: &str) {
        let mut state = self.state.lock();
        let _ = fs::remove_file(self.folder.join(name));
        state.files.pop(name);
    }

    /// The most bytes that were ever taken.
    #[cfg(test)]
    pub(crate) fn peak(&self) -> u64 {
        self.state.lock().peak
    }

    /// Bytes that are taken, by files and by reservations.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u64 {
        self.state.lock().taken()
    }
}

impl BudgetState {
    fn taken(&self) -> u64 {
        self.reserved + self.files.iter().map(|(_, file)| file.size).sum::<u64>()
    }

    fn in_use(&self) -> u64 {
        self.reserved + self.files.iter().filter(|(_, file)| !file.is_idle()).map(|(_, file)| file.size).sum::<u64>()
    }

    fn warn(&mut self, folder: &Path, bound: u64) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                folder = %folder.display(), bound,
                "the segments in use are larger than the cache; the oldest are read by ranges, which is slow; raise the bound"
            );
        }
    }
}

/// Bytes of the cache folder that nobody else may take while this value lives.
pub(crate) struct DiskReservation {
    budget: Arc<DiskBudget>,
    bytes: u64,
}

impl DiskReservation {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn budget(&self) -> &Arc<DiskBudget> {
        &self.budget
    }

    /// Reserves `bytes` more. False if they do not fit.
    pub(crate) fn grow(&mut self, bytes: u64, usage: RoomUse) -> bool {
        let fits = self.budget.take(bytes, usage);
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// The reservation is for what was written: `bytes`.
    pub(crate) fn set(&mut self, bytes: u64) {
        let mut state = self.budget.state.lock();
        state.reserved = state.reserved - self.bytes + bytes;
        drop(state);
        self.bytes = bytes;
    }

    /// Writes to a file in the folder, at most as many bytes as are reserved.
    pub(crate) fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if bytes.len() as u64 > self.bytes {
            return Err(io::Error::other(format!(
                "{} bytes are written where {} are reserved",
                bytes.len(),
                self.bytes
            )));
        }
        #[cfg(test)]
        {
            let failing = &self.budget.failing_writes;
            if failing.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        file.write_all_at(bytes, at)
    }

    /// Ends without giving the bytes back; how many they were.
    fn forget(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for DiskReservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.state.lock().reserved -= self.bytes;
        }
    }
}

/// Whether an error says that the disk, or a quota on it, is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Segments that an earlier process left, oldest first; anything else in the folder is removed.
fn left_over(folder: &Path) -> io::Result<LruCache<String, CachedFile>> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder)? {
        let item = item?;
        let name = item.file_name().to_string_lossy().into_owned();
        let meta = item.metadata()?;
        if name.len() == CHECKSUM_CHARS && meta.is_file() {
            found.push((meta.modified()?, name, meta.len()));
        } else if meta.is_dir() {
            fs::remove_dir_all(item.path())?;
        } else if name != LOCK_FILE {
            fs::remove_file(item.path())?;
        }
    }
    found.sort();
    let mut files = LruCache::unbounded();
    for (_, name, size) in found {
        files.put(name, CachedFile { size, verified: false, held: Weak::new() });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn budget(bound: u64) -> (TempDir, Arc<DiskBudget>) {
        let folder = TempDir::new().unwrap();
        let budget = DiskBudget::open(folder.path(), bound).unwrap();
        (folder, budget)
    }

    #[test]
    fn what_is_reserved_cannot_be_reserved_twice_and_comes_back() {
        let (_folder, budget) = budget(800);
        let mut first = budget.reserve(500, RoomUse::CachedSegment).unwrap();
        assert!(budget.reserve(101, RoomUse::CachedSegment).is_none());
        assert!(budget.reserve(201, RoomUse::Compaction).is_none());
        let part = budget.reserve(101, RoomUse::RemoteColumns).unwrap();
        assert!(!first.grow(200, RoomUse::NewSegment));
        assert!(first.grow(199, RoomUse::NewSegment));
        first.set(10);
        assert_eq!(budget.taken(), 111);
        drop((first, part));
        assert_eq!((budget.taken(), budget.peak()), (0, 800));
    }

    #[test]
    fn room_is_held_back_for_what_is_built_here() {
        let (_folder, budget) = budget(800);
        assert_eq!(budget.limit(RoomUse::CachedSegment), 600);
        budget.expect_builds();
        assert!(budget.reserve(401, RoomUse::CachedSegment).is_none());
        let _cached = budget.reserve(400, RoomUse::CachedSegment).unwrap();
        let compaction = budget.max_compaction_bytes() * 5 / 2;
        let _compaction = budget.reserve(compaction, RoomUse::Compaction).unwrap();
        assert!(budget.reserve(100, RoomUse::NewSegment).is_some());
    }

    #[test]
    fn reads_by_ranges_leave_room_for_the_largest_new_segment() {
        for builds in [false, true] {
            let (_folder, budget) = budget(8000);
            if builds {
                budget.expect_builds();
            }
            let mut reads = budget.reserve(0, RoomUse::RemoteRead).unwrap();
            while reads.grow(1, RoomUse::RemoteRead) {}
            assert!(reads.bytes() >= 2000);
            assert!(budget.reserve(budget.max_compaction_bytes(), RoomUse::CachedSegment).is_some(), "{builds}");
        }
    }

    #[test]
    fn files_above_the_bound_are_removed_at_the_start_oldest_first() {
        let folder = TempDir::new().unwrap();
        for (age, name) in (0..4u64).rev().zip(["a", "b", "c", "d"]) {
            let path = folder.path().join(name.repeat(CHECKSUM_CHARS));
            fs::write(&path, [0; 100]).unwrap();
            let modified = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - age);
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        }
        fs::write(folder.path().join("scratch"), [0; 100]).unwrap();
        let budget = DiskBudget::open(folder.path(), 250).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["c".repeat(CHECKSUM_CHARS), "d".repeat(CHECKSUM_CHARS)].map(std::ffi::OsString::from));
        assert_eq!(budget.taken(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_a_smaller_one_for_a_while() {
        let (_folder, budget) = budget(800);
        let taken = budget.reserve(200, RoomUse::NewSegment).unwrap();
        budget.disk_was_full();
        assert!(budget.reserve(1, RoomUse::NewSegment).is_none());
        drop(taken);
        assert!(budget.reserve(200, RoomUse::NewSegment).is_some());
        assert!(budget.reserve(201, RoomUse::NewSegment).is_none());
        tokio::time::advance(FULL_DISK_INTERVAL).await;
        assert!(budget.reserve(800, RoomUse::NewSegment).is_some());
    }
}
