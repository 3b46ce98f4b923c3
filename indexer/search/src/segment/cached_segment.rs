//! The bytes of one segment object, wherever they lie.

use std::sync::Arc;

use tantivy::directory::FileSlice;

use super::{disk_budget::HeldFile, ranged_file::RangedFile};

/// The bytes of a segment object. A whole one on the local disk is not evicted while this value lives.
pub(crate) enum CachedSegment {
    /// A whole object on the local disk, memory-mapped.
    Local(Arc<HeldFile>),
    /// An object in the store, whose bytes are fetched when they are read.
    Ranged { file: FileSlice, ranged: Arc<RangedFile> },
}

impl CachedSegment {
    /// An object in the store, read by ranges.
    pub(crate) fn ranged(file: RangedFile) -> Self {
        let ranged = Arc::new(file);
        Self::Ranged { file: FileSlice::new(ranged.clone()), ranged }
    }

    /// The bytes.
    pub(crate) fn file(&self) -> &FileSlice {
        match self {
            Self::Local(held) => held.file(),
            Self::Ranged { file, .. } => file,
        }
    }

    /// Whether the whole object is on the local disk.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// It is open: what is read from now on is not held as long as it is.
    pub(crate) fn end_opening(&self) {
        if let Self::Ranged { ranged, .. } = self {
            ranged.end_opening();
        }
    }

    /// Whether long reads by ranges found no room on the disk.
    #[cfg(test)]
    pub(crate) fn lacked_room(&self) -> bool {
        matches!(self, Self::Ranged { ranged, .. } if ranged.lacked_room())
    }
}
