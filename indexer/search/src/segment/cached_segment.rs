//! The bytes of one segment object, wherever they lie.

use tantivy::directory::FileSlice;

/// A verified object on the local disk, which is not evicted while this value lives; or one that is read by ranges.
pub(crate) struct CachedSegment {
    file: FileSlice,
    is_local: bool,
}

impl CachedSegment {
    /// A whole object on the local disk.
    pub(crate) fn local(file: FileSlice) -> Self {
        Self { file, is_local: true }
    }

    /// An object in the store, read by ranges.
    pub(crate) fn ranged(file: FileSlice) -> Self {
        Self { file, is_local: false }
    }

    /// The bytes: memory-mapped, or fetched when they are read.
    pub(crate) fn file(&self) -> &FileSlice {
        &self.file
    }

    /// Whether the whole object is on the local disk.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }
}
