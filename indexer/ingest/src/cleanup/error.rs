//! Why a log is not cleaned up.

use tidemark_catalog::CatalogError;
use tidemark_crds::Reason;
use tidemark_store::{ClockError, StoreError};

use crate::{
    cause::{FailureCause, ToCause},
    snapshot::SnapshotError,
};

/// Why a log is not cleaned up, or not to the end. What was deleted is in the archive; a later run goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// A chain fails or refuses: the log's root, the pins, the clean-ups'.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The log's store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's clock cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(SnapshotError),
    /// There is no index.
    #[error(
        "\"{url}\" holds no index of this log; nothing was deleted; correct --index, or let `tidemark index` begin it"
    )]
    NoIndex {
        /// The index.
        url: String,
    },
    /// No snapshot is verified.
    #[error(
        "\"{index}\" has no verified snapshot; nothing was deleted from the log, since nothing vouches for the archive; run `tidemark \
         snapshot`, and clean up once it is verified"
    )]
    NoVerifiedSnapshot {
        /// The index.
        index: String,
    },
    /// The archive is not the one that a snapshot or the floor names.
    #[error(
        "version {version} of the archive \"{archive}\", which {by} rests on, is gone or is another one; nothing was deleted; put the archive \
         back as it was, run `tidemark verify`, or, if what the floor rests on is lost, move the floor with `tidemark log floor`"
    )]
    ArchiveReplaced {
        /// The archive.
        archive: String,
        /// The version.
        version: u64,
        /// What rests on it.
        by: String,
    },
    /// The floor rests on an archive elsewhere.
    #[error(
        "the log's floor rests on the archive \"{known}\", and this index archives to \"{archive}\"; nothing was deleted; run the clean-up for \
         the index of that archive, or, if that one is lost, move the floor to this one with `tidemark log floor`"
    )]
    OtherArchive {
        /// This index's.
        archive: String,
        /// The floor's.
        known: String,
    },
}

impl From<SnapshotError> for CleanupError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::NoIndex { url } => Self::NoIndex { url },
            SnapshotError::Chain(error) => Self::Chain(error),
            SnapshotError::Store(error) => Self::Store(error),
            error => Self::Archive(error),
        }
    }
}

impl CleanupError {
    /// Whether the outcome of a write is unknown: the next process reads it.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Chain(error) => matches!(error, CatalogError::Unknown { .. }),
            Self::Archive(error) => error.is_unknown(),
            _ => false,
        }
    }
}

impl ToCause for CleanupError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Chain(error) => error.to_cause(),
            Self::Store(error) => error.to_cause(),
            Self::Clock(error) => error.to_cause(),
            Self::Archive(error) => error.to_cause(),
            Self::NoIndex { url } => FailureCause::at(Reason::InvalidURL, url),
            Self::NoVerifiedSnapshot { index } => FailureCause::at(Reason::NoVerifiedSnapshot, index),
            Self::ArchiveReplaced { archive, .. } => FailureCause::at(Reason::ArchiveDamaged, archive),
            Self::OtherArchive { archive, .. } => FailureCause::at(Reason::OwnedByAnother, archive),
        }
    }
}
