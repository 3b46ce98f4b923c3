//! Why the log's floor is not moved.

use tidemark_catalog::{CatalogError, LogCursor};
use tidemark_crds::Reason;
use tidemark_wal::Token;

use crate::{
    cause::{FailureCause, ToCause},
    snapshot::SnapshotError,
};

/// Why the log's floor does not move to the archive of another index. Unless the outcome is unknown it stays where it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorMoveError {
    /// The log's root, or the index, cannot be read or refuses.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] SnapshotError),
    /// There is no index.
    #[error(
        "\"{url}\" holds no index of this log; the log's floor was not moved; correct the URL, or let `tidemark index` begin the index"
    )]
    NoIndex {
        /// The index.
        url: String,
    },
    /// The archive does not reach the floor.
    #[error(
        "the archive \"{archive}\" {}, and the log was cleaned up to {floor}; the floor was not moved, since what lies below it could be in no \
         archive; let `tidemark snapshot` extend this one first",
        end.map_or_else(|| "has no version yet".to_owned(), |end| format!("ends at {end}"))
    )]
    Short {
        /// The archive.
        archive: String,
        /// Where it ends.
        end: Option<LogCursor>,
        /// The floor.
        floor: LogCursor,
    },
    /// The archive is damaged.
    #[error(
        "{count} objects of the archive \"{archive}\" are missing or damaged, \"{key}\" is the first one: {why}; the log's floor was not \
         moved, since what lies below it would be lost with them; restore them from the bucket's versions or a copy"
    )]
    Damaged {
        /// The archive.
        archive: String,
        /// How many.
        count: u64,
        /// The first one.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The archive lacks what the one that the floor rests on holds.
    #[error(
        "the archive \"{archive}\" has {what} of operation {op} of {token}, which \"{known}\" holds; the log's floor stays on that one; name an \
         index that was begun from it or from its copy (`tidemark index --bootstrap-from`)"
    )]
    Lacks {
        /// The archive.
        archive: String,
        /// The one that the floor rests on.
        known: String,
        /// The entry.
        token: Token,
        /// The operation.
        op: u32,
        /// What the archive has of it.
        what: &'static str,
    },
    /// The archive that the floor rests on cannot be read.
    #[error(
        "the archive \"{known}\", on which the log's floor rests, cannot be read: {why}; the floor was not moved, since nothing shows that \
         \"{archive}\" holds the same; let this command read it (`from` in --stores), or, if it is lost for good, give --lost"
    )]
    Unread {
        /// The one that the floor rests on.
        known: String,
        /// The archive.
        archive: String,
        /// Why.
        why: String,
        /// What that means.
        cause: FailureCause,
    },
}

impl FloorMoveError {
    /// Whether the outcome of a write is unknown: the next process reads it.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Chain(error) => matches!(error, CatalogError::Unknown { .. }),
            Self::Archive(error) => error.is_unknown(),
            _ => false,
        }
    }
}

impl ToCause for FloorMoveError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Chain(error) => error.to_cause(),
            Self::Archive(error) => error.to_cause(),
            Self::NoIndex { url } => FailureCause::at(Reason::InvalidURL, url),
            Self::Short { archive, .. } => FailureCause::at(Reason::BelowFloor, archive),
            Self::Damaged { key, .. } => FailureCause::at(Reason::ArchiveDamaged, key),
            Self::Lacks { archive, .. } => FailureCause::at(Reason::OutcomesDiffer, archive),
            Self::Unread { cause, .. } => cause.clone(),
        }
    }
}
