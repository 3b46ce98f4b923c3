//! Segments that do not fit into the disk cache, read by ranges.
//!
//! Blocks are kept in memory up to a bound. What is read this way cannot be checked against the object's SHA-256; the
//! table of contents has its own hash, and damage beyond it ends one search or look-up with an error.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use tantivy::{
    HasLen,
    directory::{FileHandle, OwnedBytes},
};
use tidemark_catalog::SegmentMeta;
use tidemark_store::Store;
use tokio::runtime::Handle;

/// Bytes of a block: what one GET reads at least.
const BLOCK: usize = 256 << 10;

/// Blocks of several objects, the least recently used of which are forgotten.
pub(crate) struct Blocks {
    bound: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocks: HashMap<Name, (Arc<[u8]>, u64)>,
    by_age: BTreeMap<u64, Name>,
    clock: u64,
    bytes: usize,
}

/// The checksum of an object and the number of a block in it.
type Name = (Arc<str>, usize);

impl Blocks {
    /// Keeps at most `bound` bytes, and always the block that was read last.
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound, state: Mutex::default() }
    }

    fn get(&self, name: &Name) -> Option<Arc<[u8]>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let (block, used) = state.blocks.get_mut(name)?;
        let (block, before) = (block.clone(), std::mem::replace(used, now));
        state.by_age.remove(&before);
        state.by_age.insert(now, name.clone());
        Some(block)
    }

    fn put(&self, name: Name, block: Arc<[u8]>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        state.bytes += block.len();
        state.by_age.insert(now, name.clone());
        if let Some((before, used)) = state.blocks.insert(name, (block, now)) {
            state.bytes -= before.len();
            state.by_age.remove(&used);
        }
        while state.bytes > self.bound && state.by_age.len() > 1 {
            let Some((_, oldest)) = state.by_age.pop_first() else { return };
            if let Some((block, _)) = state.blocks.remove(&oldest) {
                state.bytes -= block.len();
            }
        }
    }
}

/// An object in the store as a file. Reading it blocks, and must not happen on an async thread.
pub(crate) struct RemoteFile {
    store: Store,
    runtime: Handle,
    key: String,
    name: Arc<str>,
    len: usize,
    blocks: Arc<Blocks>,
}

impl RemoteFile {
    /// The object of `segment`. Called on a runtime, whose threads do the reading.
    pub(crate) fn new(store: &Store, segment: &SegmentMeta, blocks: &Arc<Blocks>) -> io::Result<Self> {
        Ok(Self {
            store: store.clone(),
            runtime: Handle::try_current().map_err(io::Error::other)?,
            key: segment.key.clone(),
            name: segment.checksum.as_str().into(),
            len: usize::try_from(segment.size).map_err(io::Error::other)?,
            blocks: blocks.clone(),
        })
    }

    /// The blocks `first..end`, those that are missing fetched with as few GETs as they have gaps.
    fn blocks(&self, wanted: Range<usize>) -> io::Result<Vec<Arc<[u8]>>> {
        let name = |block: usize| (self.name.clone(), block);
        let mut found: Vec<Option<Arc<[u8]>>> = wanted.clone().map(|block| self.blocks.get(&name(block))).collect();
        while let Some(from) = found.iter().position(Option::is_none) {
            let gap = found[from..].iter().take_while(|block| block.is_none()).count();
            let first = wanted.start + from;
            let bytes = self.fetch(first * BLOCK..((first + gap) * BLOCK).min(self.len))?;
            for (at, block) in bytes.chunks(BLOCK).enumerate() {
                let block: Arc<[u8]> = block.into();
                self.blocks.put(name(first + at), block.clone());
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
        let why = format!("\"{}\" gave {} bytes where {wanted} were asked for", self.key, bytes.len());
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
    }
}

impl FileHandle for RemoteFile {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        if range.end > self.len || range.start > range.end {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{range:?} lies beyond \"{}\"", self.key)));
        }
        if range.is_empty() {
            return Ok(OwnedBytes::empty());
        }
        let wanted = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let start = wanted.start * BLOCK;
        let blocks = self.blocks(wanted)?;
        let within = range.start - start..range.end - start;
        match &blocks[..] {
            [one] => Ok(OwnedBytes::new(one.clone()).slice(within)),
            many => Ok(OwnedBytes::new(many.concat()).slice(within)),
        }
    }
}

impl HasLen for RemoteFile {
    fn len(&self) -> usize {
        self.len
    }
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteFile({})", self.key)
    }
}
