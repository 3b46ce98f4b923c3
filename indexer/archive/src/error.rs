//! What can go wrong with the archive, and what to do about it.

use tidemark_catalog::LogCursor;
use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_store::StoreError;
use tidemark_wal::{Outcome, Token};

/// A failure of the archive. Only [`ArchiveError::Unknown`] leaves open whether a version was committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object of the table is not what the table says.
    #[error(
        "\"{key}\" of the archive is damaged: {why}; its rows can be neither read nor relied on; bring the object back from the \
         bucket's versions or from a copy of the archive"
    )]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// An object that the table names does not exist.
    #[error(
        "\"{key}\" is gone although the archive names it; its rows cannot be read; bring the object back from the bucket's \
         versions or from a copy of the archive"
    )]
    Gone {
        /// The object.
        key: String,
    },
    /// The table, or an object of it, is not this log's archive.
    #[error(
        "\"{key}\" is no part of the archive of the log \"{log}\": {why}; nothing is read or written there; use the prefix of this \
         log's own archive, and no other program to write to it"
    )]
    Foreign {
        /// The object.
        key: String,
        /// The log whose archive was opened.
        log: String,
        /// What shows it.
        why: String,
    },
    /// The table has a format that this version does not know.
    #[error(
        "\"{key}\" of the archive has format {found} and this version knows format {known}; nothing is read or written there; \
         run the version of tidemark that wrote it, or a later one"
    )]
    NewerFormat {
        /// The object.
        key: String,
        /// Its format.
        found: String,
        /// The format that this version writes.
        known: u32,
    },
    /// A row, or the end that was asked for, does not fit the table.
    #[error(transparent)]
    Rejected(#[from] RowRejected),
    /// Another process has committed the version.
    #[error(
        "another process has committed \"{key}\", the version that this one was about to commit; this one has added nothing to \
         the archive since its last version; read the latest version and go on from its end"
    )]
    Overtaken {
        /// The version's object.
        key: String,
    },
    /// It is unknown whether the version was committed. The process has to end and to clean up nothing: the next one reads the table
    /// and sees.
    #[error(
        "whether \"{key}\" was committed is unknown ({why}); this process ends, and cleans up nothing; start it again, it reads \
         the table"
    )]
    Unknown {
        /// The version's object.
        key: String,
        /// What happened.
        why: String,
    },
    /// What the rows come from fails.
    #[error("the rows for the archive cannot be read: {0}")]
    Source(Box<dyn ToCause + Send + Sync>),
    /// A row cannot be written as Parquet, or Parquet that was just written cannot be read.
    #[error("the archive cannot {what}: {why}; nothing of it was committed; this is a bug, please report it")]
    Codec {
        /// What was tried.
        what: &'static str,
        /// The library's message.
        why: String,
    },
}

/// Why a row is not taken. Nothing was committed after the rows of whole seconds before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowRejected {
    /// The row's second is in the table already.
    #[error(
        "\"{token}\" lies below {end}, where the archive ends: its second is archived already; the row was not added; start from \
         the end of the latest version"
    )]
    BelowEnd {
        /// The entry.
        token: Token,
        /// The end of the table.
        end: LogCursor,
    },
    /// The row's second is not to be archived yet.
    #[error(
        "\"{token}\" lies at or above {up_to}, up to which rows were announced; the row was not added; announce all of its second"
    )]
    BeyondEnd {
        /// The entry.
        token: Token,
        /// The announced end.
        up_to: LogCursor,
    },
    /// The new end lies below the table's.
    #[error(
        "the archive reaches up to {end} and cannot end at {up_to}; nothing was added; start from the end of the latest version"
    )]
    EndBack {
        /// The end of the table.
        end: LogCursor,
        /// The announced end.
        up_to: LogCursor,
    },
    /// The row does not follow the one before.
    #[error(
        "operation {op} of \"{token}\" does not follow the row before it: rows come by token and operation, each once, the first \
         operation of an entry first; the row was not added; this is a bug, please report it"
    )]
    OutOfOrder {
        /// The entry.
        token: Token,
        /// The operation.
        op: u32,
    },
    /// The outcome may still change.
    #[error(
        "operation {op} of \"{token}\" is {}: its outcome is not settled, and an archived one never changes; the row was not \
         added; leave the entry out, it stays in the log",
        outcome.as_str()
    )]
    Unsettled {
        /// The entry.
        token: Token,
        /// The operation.
        op: u32,
        /// Its outcome.
        outcome: Outcome,
    },
    /// The row holds what its columns cannot.
    #[error(
        "operation {op} of \"{token}\" cannot be archived: {why}; the row was not added; this is a bug, please report it"
    )]
    Unfit {
        /// The entry.
        token: Token,
        /// The operation.
        op: u32,
        /// What does not fit.
        why: &'static str,
    },
}

/// An object of the table that is missing, damaged or not the table's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveDamage {
    /// The object's URL.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

impl ArchiveError {
    /// A failure of what the rows come from.
    pub fn source(error: impl ToCause + Send + Sync) -> Self {
        Self::Source(Box::new(error))
    }

    pub(crate) fn codec(what: &'static str, error: &impl std::error::Error) -> Self {
        Self::Codec { what, why: error.to_string() }
    }

    /// The damage that this error tells of; other errors stay errors.
    pub(crate) fn into_damage(self) -> Result<ArchiveDamage, Self> {
        match self {
            Self::Damaged { key, why } | Self::Foreign { key, why, .. } => Ok(ArchiveDamage { key, why }),
            Self::Gone { key } => Ok(ArchiveDamage { key, why: "it is missing".to_owned() }),
            Self::NewerFormat { key, found, .. } => Ok(ArchiveDamage { key, why: format!("it has format {found}") }),
            other => Err(other),
        }
    }
}

impl ToCause for ArchiveError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Store(error) => error.to_cause(),
            Self::Damaged { key, .. } | Self::Gone { key } => FailureCause::at(Reason::ArchiveDamaged, key),
            Self::Foreign { key, .. } => FailureCause::at(Reason::OwnedByAnother, key),
            Self::NewerFormat { key, .. } => FailureCause::at(Reason::FormatTooNew, key),
            Self::Overtaken { key } => FailureCause::at(Reason::Fenced, key),
            Self::Unknown { key, .. } => FailureCause::at(Reason::Internal, key),
            Self::Source(error) => error.to_cause(),
            Self::Rejected(_) | Self::Codec { .. } => FailureCause::of(Reason::Internal),
        }
    }
}
