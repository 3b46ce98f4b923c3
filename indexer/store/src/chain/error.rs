//! What can go wrong with a chain, and what to do about it.

use super::state::InvariantViolation;
use crate::errors::StoreError;

/// A failure of a chain whose transactions are rejected with `R`.
///
/// Only [`ChainError::Unknown`] leaves open whether something was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError<R> {
    /// The transaction does not apply to the chain's state; nothing was written.
    #[error(transparent)]
    Rejected(R),
    /// The state would violate an invariant: a bug of the program, found before it was written.
    #[error(transparent)]
    Invariant(#[from] InvariantViolation),
    /// The chain has no record yet, and the transaction makes none.
    #[error("the chain \"{chain}\" has no record yet; there is nothing to change; let its first writer create it")]
    Empty {
        /// The chain.
        chain: String,
    },
    /// Others won the slot every time; nothing was written.
    #[error("\"{chain}\" took records of others {attempts} times in a row; nothing was appended; try again later")]
    Conflicts {
        /// The chain.
        chain: String,
        /// How many slots were lost.
        attempts: u32,
    },
    /// It is unknown whether the record is part of the chain. The process has to exit and to clean up nothing: its
    /// successor reads the chain and sees.
    #[error(
        "whether \"{key}\" was appended is unknown ({why}); this process ends, and cleans up nothing; start it again, its \
         successor reads the chain"
    )]
    Unknown {
        /// The slot.
        key: String,
        /// What happened.
        why: String,
    },
    /// The store failed; nothing was written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record would be larger than any reader takes; nothing was written.
    #[error(
        "\"{key}\" would have {bytes} bytes and a record has {limit} at most; nothing was written; drop pins that are \
         no longer wanted, and let compaction merge objects"
    )]
    TooLarge {
        /// The slot.
        key: String,
        /// The record's size in bytes.
        bytes: u64,
        /// What a record may have.
        limit: u64,
    },
    /// An object is not what the format says.
    #[error(
        "\"{key}\" is damaged: {why}; nothing that follows from it can be trusted; restore that object from the \
         bucket's versions or from a copy of the bucket"
    )]
    Corrupt {
        /// The object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A newer release wrote the object.
    #[error(
        "\"{key}\" is read by version {found} or later and this release has version {known}; nothing is made of it; upgrade this \
         process"
    )]
    NewerFormat {
        /// The object.
        key: String,
        /// The least version that reads it.
        found: u32,
        /// The version of this release.
        known: u32,
    },
    /// A newer release wrote the object, and this one may read but not continue it.
    #[error(
        "\"{key}\" may be followed by records of version {needed} or later and this release writes version {known}; nothing was \
         written, reading goes on; upgrade this process"
    )]
    NewerWriter {
        /// The object.
        key: String,
        /// The least version that may append after it.
        needed: u32,
        /// The version of this release.
        known: u32,
    },
    /// A trim boundary would go back.
    #[error("the trim boundary cannot go back from {boundary} to {to}; it stays; name a later record")]
    BoundaryBack {
        /// The boundary.
        boundary: u64,
        /// What was asked for.
        to: u64,
    },
    /// A trim boundary would reach the latest record.
    #[error(
        "the trim boundary {to} would reach the chain's latest record {latest}, which must stay; nothing was trimmed; name an earlier \
         record"
    )]
    BoundaryReachesLatest {
        /// What was asked for.
        to: u64,
        /// The latest record.
        latest: u64,
    },
}
