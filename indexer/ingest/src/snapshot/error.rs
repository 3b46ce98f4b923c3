//! Why a snapshot is not made.

use tidemark_catalog::{CatalogError, Generation};
use tidemark_crds::Reason;
use tidemark_store::StoreError;

use crate::{
    cause::{FailureCause, ToCause},
    engine::EngineError,
};

/// Why a snapshot is not made, or not verified. The pin and what was archived stay: a later run goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A chain fails or refuses: the index's, its pins', the log's root.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The index cannot be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log was never indexed.
    #[error("\"{url}\" is no log that was ever indexed; no snapshot was made; correct --log")]
    NeverIndexed {
        /// The log.
        url: String,
    },
    /// There is no index.
    #[error(
        "\"{url}\" holds no index of this log; no snapshot was made; correct --index, or let `tidemark index` begin it"
    )]
    NoIndex {
        /// The index.
        url: String,
    },
    /// What was read again is not what was written.
    #[error(
        "\"{key}\" is damaged: {why}; the snapshot is not verified and cannot be restored from; restore the object from a copy of the \
         bucket, or rebuild the index and make another snapshot"
    )]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// What snapshots are copied to is an index.
    #[error(
        "\"{url}\" holds an index; nothing was copied there, since its collector would delete the copy; choose a prefix of its own for copies"
    )]
    CopyRefused {
        /// Where it was to be copied.
        url: String,
    },
    /// What snapshots are copied to lies among what they are copies of.
    #[error(
        "\"{url}\" and \"{other}\" lie within one another; no snapshot was made; name a prefix of its own for copies, best in another bucket"
    )]
    CopyOverlaps {
        /// Where it was to be copied.
        url: String,
        /// The log, a metadata store or the index.
        other: String,
    },
    /// Another process archived the same operations first.
    #[error("{what}: another process has extended the archive; nothing was archived twice; run the snapshot again")]
    Overtaken {
        /// What was found.
        what: String,
    },
    /// It is unknown whether a version of the archive was made.
    #[error(
        "whether \"{key}\" was archived is unknown ({why}); this process ends and cleans up nothing; run the snapshot again"
    )]
    Unknown {
        /// The version's record.
        key: String,
        /// What happened.
        why: String,
    },
    /// What is archived is not what the index says.
    #[error(
        "\"{key}\" is damaged: {why}; the snapshot is not verified, and the log must not be cleaned up by this archive; restore the \
         object from a copy of the bucket, and make another snapshot"
    )]
    ArchiveDamaged {
        /// The object, or the version.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The index has decided otherwise what an earlier generation has archived: it was made again from the log, and what outcomes were
    /// decided by may be gone since.
    #[error(
        "generation {archived_by} archived other outcomes, bytes or times than generation {generation} of the index has: {what}; the snapshot is not \
         verified, and the log must not be cleaned up by this archive; move the folder \"archive\" away from below the index's URL, which \
         keeps what it holds, so that the next snapshot begins another one, or make snapshots with --no-archive"
    )]
    OutcomesDiffer {
        /// The generation that archived.
        archived_by: Generation,
        /// The index's.
        generation: Generation,
        /// The first operation that differs.
        what: String,
    },
    /// Something else fails: the archive, the local disk.
    #[error("{0}")]
    Other(Box<dyn ToCause + Send + Sync>),
}

impl SnapshotError {
    /// Whether the outcome of a write is unknown: the next process reads it.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Chain(CatalogError::Unknown { .. }))
    }

    /// Whether what the pin holds cannot be read: then it is not held back any longer.
    pub(super) fn is_damage(&self) -> bool {
        let of_engine = matches!(self, Self::Engine(EngineError::Damaged { .. } | EngineError::Gone { .. }));
        of_engine || matches!(self, Self::Damaged { .. })
    }
}

impl ToCause for SnapshotError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Chain(error) => error.to_cause(),
            Self::Engine(error) => error.to_cause(),
            Self::Store(error) => error.to_cause(),
            Self::Other(error) => error.to_cause(),
            Self::NeverIndexed { url } | Self::NoIndex { url } => FailureCause::at(Reason::InvalidURL, url),
            Self::CopyRefused { url } | Self::CopyOverlaps { url, .. } => FailureCause::at(Reason::PrefixInUse, url),
            Self::Damaged { key, .. } => FailureCause::at(Reason::IndexDamaged, key),
            Self::ArchiveDamaged { key, .. } => FailureCause::at(Reason::ArchiveDamaged, key),
            Self::OutcomesDiffer { .. } => FailureCause::of(Reason::OutcomesDiffer),
            Self::Overtaken { .. } => FailureCause::of(Reason::Fenced),
            Self::Unknown { key, .. } => FailureCause::at(Reason::Internal, key),
        }
    }
}
