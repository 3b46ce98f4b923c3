//! The bytes of one segment object, wherever they lie.

use std::sync::Arc;

use tantivy::directory::FileSlice;

use super::ranged_file::RangedFile;

/// A verified object on the local disk, which is not evicted while this value lives; or one that is read by ranges.
pub(crate) struct CachedSegment {
    file: FileSlice,
    /// Where it is read by ranges.
    ranged: Option<Arc<RangedFile>>,
}

impl CachedSegment {
    /// A whole object on the local disk.
    pub(crate) fn local(file: FileSlice) -> Self {
        Self { file, ranged: None }
    }

    /// An object in the store, read by ranges.
    pub(crate) fn ranged(file: RangedFile) -> Self {
        let file = Arc::new(file);
        Self { file: FileSlice::new(file.clone()), ranged: Some(file) }
    }

    /// The bytes: memory-mapped, or fetched when they are read.
    pub(crate) fn file(&self) -> &FileSlice {
        &self.file
    }

    /// Whether the whole object is on the local disk.
    pub(crate) fn is_local(&self) -> bool {
        self.ranged.is_none()
    }

    /// It is open: what is read from now on is not held as long as it is.
    pub(crate) fn end_opening(&self) {
        if let Some(ranged) = &self.ranged {
            ranged.end_opening();
        }
    }

    /// Whether long reads by ranges found no room on the disk.
    #[cfg(test)]
    pub(crate) fn lacked_room(&self) -> bool {
        self.ranged.as_ref().is_some_and(|ranged| ranged.lacked_room())
    }
}
