//! Segments that do not fit into the disk cache, read by ranges.
//!
//! Blocks are kept in memory up to a bound. What is read this way cannot be checked against the object's SHA-256; the
//! footer has its own hash, and damage beyond it ends one query or look-up with an error.

use std::{fmt, io, ops::Range, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use tantivy::{
    HasLen,
    directory::{FileHandle, OwnedBytes},
};
use tidemark_catalog::SegmentMeta;
use tidemark_store::Store;
use tokio::runtime::Handle;

/// Bytes of a block: what one GET reads at least.
const BLOCK_BYTES: usize = 256 << 10;

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
}

impl RangedFile {
    /// The object of `segment`. Called on a runtime, whose threads do the reading.
    pub(crate) fn new(store: &Store, segment: &SegmentMeta, blocks: &Arc<BlockCache>) -> io::Result<Self> {
        Ok(Self {
            store: store.clone(),
            runtime: Handle::try_current().map_err(io::Error::other)?,
            key: segment.key.clone(),
            checksum: segment.checksum.as_str().into(),
            len: usize::try_from(segment.size).map_err(io::Error::other)?,
            blocks: blocks.clone(),
        })
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
        let wanted = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let start = wanted.start * BLOCK_BYTES;
        let blocks = self.blocks(wanted)?;
        let within = range.start - start..range.end - start;
        match &blocks[..] {
            [one] => Ok(OwnedBytes::new(one.clone()).slice(within)),
            many => Ok(OwnedBytes::new(many.concat()).slice(within)),
        }
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
