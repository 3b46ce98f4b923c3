//! Segments that do not fit into the disk cache, read by ranges.
//!
//! Short reads come from blocks in memory, which are kept up to a bound. Long ones go to a file on the disk that is mapped into memory,
//! as far as the cache has room for them. So does nearly all that is read while a segment is opened, for it is held as long as
//! the segment is open: columns, filters. That has room of its own, so that memory does not grow with the index: [`held_bytes`]
//! is left for each segment that is read by ranges. What is read by ranges cannot be checked against the
//! object's SHA-256; the footer has its own hash, and damage beyond it ends one query or look-up with an error.

use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use roaring::RoaringBitmap;
use tantivy::{
    HasLen,
    directory::{FileHandle, OwnedBytes},
};
use tempfile::{NamedTempFile, TempPath};
use tidemark_catalog::SegmentMeta;
use tidemark_store::Store;
use tokio::runtime::Handle;

use super::disk_budget::{DiskBudget, DiskReservation, RoomUse, is_full};

/// Bytes of a block: what one GET of a short read asks for.
const BLOCK_BYTES: usize = 256 << 10;
/// Longer reads go to the disk.
const MAX_MEMORY_READ_BYTES: usize = 64 << 10;
/// Longer reads go to the disk while a segment is opened.
const MAX_HELD_READ_BYTES: usize = 1 << 10;
/// What lies on the disk is counted in pieces of so many bytes. Small, since each segment leaves two of them half used.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that are fetched at once to the disk: 8 MiB.
const MAX_PIECES_PER_GET: u32 = 512;

/// Blocks of several objects; the least recently used ones are evicted.
pub(crate) struct BlockCache {
    max_bytes: usize,
    cached: Mutex<CachedBlocks>,
}

struct CachedBlocks {
    blocks: LruCache<BlockKey, Arc<[u8]>>,
    bytes: usize,
}

/// The checksum of an object and the number of a block in it.
type BlockKey = (Arc<str>, usize);

impl BlockCache {
    /// Keeps at most `max_bytes`, and always the block that was read last.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, cached: Mutex::new(CachedBlocks { blocks: LruCache::unbounded(), bytes: 0 }) }
    }

    fn get(&self, key: &BlockKey) -> Option<Arc<[u8]>> {
        self.cached.lock().blocks.get(key).cloned()
    }

    fn put(&self, key: BlockKey, block: Arc<[u8]>) {
        let mut cached = self.cached.lock();
        cached.bytes += block.len();
        if let Some(before) = cached.blocks.put(key, block) {
            cached.bytes -= before.len();
        }
        // The bound is on bytes, which the crate does not count: it is unbounded, and evicts here.
        while cached.bytes > self.max_bytes && cached.blocks.len() > 1 {
            let Some((_, oldest)) = cached.blocks.pop_lru() else { return };
            cached.bytes -= oldest.len();
        }
    }
}

/// An object in the store as a file. Reading it blocks, and must not happen on an async thread.
pub(crate) struct RangedFile {
    store: Store,
    runtime: Handle,
    key: String,
    checksum: Arc<str>,
    len: usize,
    blocks: Arc<BlockCache>,
    budget: Arc<DiskBudget>,
    /// What was read in long reads, once there was one. Not locked while the store is read.
    on_disk: Mutex<Option<SparseFile>>,
    /// Notified when pieces were fetched, or could not be.
    pieces_fetched: Condvar,
    /// Whether the segment is still being opened.
    opening: AtomicBool,
    warned: AtomicBool,
}

/// About how many bytes on the disk a segment of `size` bytes holds as long as it is open and read by ranges: its columns take 7 %
/// of records of ordinary size, in whole pieces.
pub(crate) fn held_bytes(size: u64) -> u64 {
    size / 12 + 2 * PIECE_BYTES as u64
}

/// A file as long as an object, with those pieces of it that were read.
struct SparseFile {
    file: File,
    mapped: OwnedBytes,
    present: RoaringBitmap,
    /// Pieces that a reader fetches now; others that want them wait for it.
    in_flight: RoaringBitmap,
    _path: TempPath,
    room: DiskReservation,
}

impl SparseFile {
    fn new(budget: &Arc<DiskBudget>, len: usize) -> io::Result<Option<Self>> {
        let Some(room) = budget.reserve(0, RoomUse::NewSegment) else { return Ok(None) };
        let (file, path) = NamedTempFile::new_in(budget.folder())?.into_parts();
        file.set_len(len as u64)?;
        let mapped = budget.map(&path)?.read_bytes()?;
        let (present, in_flight) = (RoaringBitmap::new(), RoaringBitmap::new());
        Ok(Some(Self { file, mapped, present, in_flight, _path: path, room }))
    }

    /// The first pieces of `wanted` in a row that are missing and that nobody fetches.
    fn first_gap(&self, wanted: &Range<u32>) -> Option<Range<u32>> {
        let is_known = |piece: &u32| self.present.contains(*piece) || self.in_flight.contains(*piece);
        let start = wanted.clone().find(|piece| !is_known(piece))?;
        let end = (start..wanted.end).find(is_known).unwrap_or(wanted.end);
        Some(start..end.min(start + MAX_PIECES_PER_GET))
    }

    fn has(&self, wanted: &Range<u32>) -> bool {
        self.present.contains_range(wanted.clone())
    }
}

/// Pieces that one reader fetches to the disk. Whether it succeeds or fails, others stop waiting for it when it is dropped.
struct PieceFetch<'a> {
    of: &'a RangedFile,
    pieces: Range<u32>,
    bytes: Range<usize>,
    is_written: bool,
}

impl PieceFetch<'_> {
    fn run(mut self) -> io::Result<()> {
        let fetched = self.of.fetch_pieces(self.bytes.clone())?;
        if let Some(sparse) = self.of.on_disk.lock().as_ref() {
            sparse.room.write_at(&sparse.file, &fetched, self.bytes.start as u64)?;
            self.is_written = true;
        }
        Ok(())
    }
}

impl Drop for PieceFetch<'_> {
    fn drop(&mut self) {
        if let Some(sparse) = self.of.on_disk.lock().as_mut() {
            sparse.in_flight.remove_range(self.pieces.clone());
            if self.is_written {
                sparse.present.insert_range(self.pieces.clone());
            } else {
                sparse.room.set(sparse.room.bytes() - self.bytes.len() as u64);
            }
        }
        self.of.pieces_fetched.notify_all();
    }
}

impl RangedFile {
    /// The object of `segment`. Called on a runtime, whose threads do the reading.
    pub(crate) fn new(
        store: &Store,
        segment: &SegmentMeta,
        blocks: &Arc<BlockCache>,
        budget: &Arc<DiskBudget>,
    ) -> io::Result<Self> {
        Ok(Self {
            store: store.clone(),
            runtime: Handle::try_current().map_err(io::Error::other)?,
            key: segment.key.clone(),
            checksum: segment.checksum.as_str().into(),
            len: usize::try_from(segment.size).map_err(io::Error::other)?,
            blocks: blocks.clone(),
            budget: budget.clone(),
            on_disk: Mutex::new(None),
            pieces_fetched: Condvar::new(),
            opening: AtomicBool::new(true),
            warned: AtomicBool::new(false),
        })
    }

    /// What is read from now on is not held as long as the segment is open.
    pub(crate) fn end_opening(&self) {
        self.opening.store(false, Ordering::Relaxed);
    }

    /// Whether long reads found no room on the disk.
    #[cfg(test)]
    pub(crate) fn lacked_room(&self) -> bool {
        self.warned.load(Ordering::Relaxed)
    }

    /// `range` from the disk, fetched to it as far as it is missing; `None` if the disk has no room for it.
    fn read_on_disk(&self, range: Range<usize>) -> io::Result<Option<OwnedBytes>> {
        let number = |piece: usize| u32::try_from(piece).map_err(io::Error::other);
        let wanted = number(range.start / PIECE_BYTES)?..number(range.end.div_ceil(PIECE_BYTES))?;
        let mut on_disk = self.on_disk.lock();
        if on_disk.is_none() {
            *on_disk = SparseFile::new(&self.budget, self.len)?;
        }
        loop {
            let Some(sparse) = on_disk.as_mut() else { return Ok(None) };
            if sparse.has(&wanted) {
                return Ok(Some(sparse.mapped.slice(range)));
            }
            let Some(pieces) = sparse.first_gap(&wanted) else {
                self.pieces_fetched.wait(&mut on_disk);
                continue;
            };
            let bytes = pieces.start as usize * PIECE_BYTES..(pieces.end as usize * PIECE_BYTES).min(self.len);
            let usage = if self.is_opening() { RoomUse::RemoteColumns } else { RoomUse::RemoteRead };
            if !sparse.room.grow(bytes.len() as u64, usage) {
                return Ok(None);
            }
            sparse.in_flight.insert_range(pieces.clone());
            drop(on_disk);
            PieceFetch { of: self, pieces, bytes, is_written: false }.run()?;
            on_disk = self.on_disk.lock();
        }
    }

    fn fetch_pieces(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        // Short ones by blocks: other columns are near.
        if range.len() > MAX_MEMORY_READ_BYTES { self.fetch(range).map(Vec::from) } else { self.read_blocks(range) }
    }

    fn is_opening(&self) -> bool {
        self.opening.load(Ordering::Relaxed)
    }

    /// The longest read that takes memory alone.
    fn max_memory_read(&self) -> usize {
        if self.is_opening() { MAX_HELD_READ_BYTES } else { MAX_MEMORY_READ_BYTES }
    }

    /// As [`Self::read_on_disk`]; `None` too if the disk is full.
    fn read_long(&self, range: Range<usize>) -> io::Result<Option<OwnedBytes>> {
        let read = match self.read_on_disk(range) {
            Err(error) if is_full(&error) => {
                self.budget.disk_was_full();
                None
            }
            read => read?,
        };
        if read.is_none() && self.is_opening() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                key = self.key, folder = %self.budget.folder().display(),
                "the cache has no room for the columns of a segment that is read by ranges; they take memory; raise the bound"
            );
        }
        Ok(read)
    }

    /// The blocks `first..end`, those that are missing fetched with as few GETs as they have gaps.
    fn blocks(&self, wanted: Range<usize>) -> io::Result<Vec<Arc<[u8]>>> {
        let key = |block: usize| (self.checksum.clone(), block);
        let mut found: Vec<Option<Arc<[u8]>>> = wanted.clone().map(|block| self.blocks.get(&key(block))).collect();
        while let Some(from) = found.iter().position(Option::is_none) {
            let gap = found[from..].iter().take_while(|block| block.is_none()).count();
            let first = wanted.start + from;
            let bytes = self.fetch(first * BLOCK_BYTES..((first + gap) * BLOCK_BYTES).min(self.len))?;
            for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                let block: Arc<[u8]> = block.into();
                self.blocks.put(key(first + at), block.clone());
                found[from + at] = Some(block);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// `range` from blocks in memory. A copy of just that: a reader of a few bytes must not keep whole blocks.
    fn read_blocks(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        let wanted = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let first = wanted.start * BLOCK_BYTES;
        let mut read = Vec::with_capacity(range.len());
        for (at, block) in self.blocks(wanted)?.iter().enumerate() {
            let start = first + at * BLOCK_BYTES;
            let within = |byte: usize| byte.saturating_sub(start).min(block.len());
            read.extend_from_slice(&block[within(range.start)..within(range.end)]);
        }
        Ok(read)
    }

    fn fetch(&self, range: Range<usize>) -> io::Result<bytes::Bytes> {
        let wanted = range.len();
        let get = self.store.get_range(&self.key, range.start as u64..range.end as u64);
        let bytes = self.runtime.block_on(get).map_err(io::Error::other)?;
        if bytes.len() == wanted {
            return Ok(bytes);
        }
        let why = format!("\"{}\" gave {} bytes where {wanted} were requested", self.key, bytes.len());
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
    }
}

impl FileHandle for RangedFile {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        if range.end > self.len || range.start > range.end {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{range:?} lies beyond \"{}\"", self.key)));
        }
        if range.is_empty() {
            return Ok(OwnedBytes::empty());
        }
        if range.len() > self.max_memory_read()
            && let Some(bytes) = self.read_long(range.clone())?
        {
            return Ok(bytes);
        }
        self.read_blocks(range).map(OwnedBytes::new)
    }
}

impl HasLen for RangedFile {
    fn len(&self) -> usize {
        self.len
    }
}

impl fmt::Debug for RangedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RangedFile({})", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_that_were_used_longest_ago_are_evicted() {
        let cache = BlockCache::new(30);
        let key = |block| (Arc::from("a"), block);
        (0..3).for_each(|block| cache.put(key(block), vec![0; 10].into()));
        assert!(cache.get(&key(0)).is_some());
        cache.put(key(3), vec![0; 10].into());
        let cached = |block| cache.get(&key(block)).is_some();
        assert_eq!([0, 1, 2, 3].map(cached), [true, false, true, true]);
        cache.put(key(4), vec![0; 100].into());
        assert_eq!([0, 2, 3, 4].map(cached), [false, false, false, true]);
    }
}
