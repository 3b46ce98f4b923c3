//! The errors of an ingest: which ones end it, and which ones are retried.

use tidemark_catalog::{AcquireError, CatalogError, Generation, LogCursor, LogId, PublishError, SwitchError};
use tidemark_crds::Reason;
use tidemark_store::{ClockError, StoreError, StoreSecond};

use crate::{
    cause::{FailureCause, ToCause},
    engine::EngineError,
    snapshot::SnapshotError,
};

/// A failure of an ingest. One that is not [`IngestError::is_retryable`] ends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The writer's lease could not be acquired.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// A publication failed. Fenced and unknown outcomes end the process, which cleans up nothing.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The root chain cannot be read, or has no parameters.
    #[error(transparent)]
    Root(#[from] CatalogError),
    /// The store's clock cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The log's store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task that reads entries ended before all of them were read.
    #[error(
        "the task that reads entries ended before all of them were read; nothing beyond is published; look for a panic in the \
         log and report it"
    )]
    EntryStreamBroken,
    /// The index does not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The archive does not answer, or is damaged.
    #[error(transparent)]
    Archive(#[from] SnapshotError),
    /// Nothing is recorded of the log: no index, no snapshot, no archive.
    #[error(
        "nothing is recorded of this log in \"{url}\": no index, snapshot or archive there holds an entry; nothing was changed; correct \
         the URL, or let `tidemark index` index the log"
    )]
    NothingRecorded {
        /// The index, or the place that it was to be restored from.
        url: String,
    },
    /// The place that an index was to be restored from holds another log's snapshots.
    #[error(
        "\"{url}\" holds snapshots or an archive of the log \"{found}\" and nothing of this one, \"{log}\"; nothing was changed; name a \
         place with snapshots of this log, or correct --log"
    )]
    OriginOfAnotherLog {
        /// The place.
        url: String,
        /// The log of the index.
        log: LogId,
        /// The other one.
        found: String,
    },
    /// The place that an index was to be restored from lies among what is restored.
    #[error(
        "\"{url}\" and \"{other}\" lie within one another; nothing was changed; name the URL of a copy of the snapshots, or of another \
         index of the log"
    )]
    OriginOverlaps {
        /// The place.
        url: String,
        /// The log, a metadata store or the index.
        other: String,
    },
    /// What an index was restored from is gone or damaged, in a place that nothing can be held back in.
    #[error(
        "what the index was restored from in \"{url}\" was removed or is damaged: {source}; the index is as before; restore it again, or to \
         a time that another snapshot there reaches"
    )]
    OriginLost {
        /// The place.
        url: String,
        /// What failed.
        source: Box<IngestError>,
    },
    /// What an index was to be restored from is damaged, and so is the archive that could stand for it.
    #[error(
        "what the index was to be restored from is damaged: {why}; the index is as before; put the archive's object or the others back from \
         a copy of the bucket, restore to a time that another snapshot reaches, or restore from copies of the snapshots (`--from-url`)"
    )]
    SourcesDamaged {
        /// What is damaged.
        why: String,
        /// What the archive's damage means.
        cause: FailureCause,
    },
    /// Nothing holds what a restore asks for.
    #[error(
        "the index cannot be restored to {target}: what is recorded reaches from {first} to {last}; nothing was changed; name a time \
         between them"
    )]
    OutsideRecoveryWindow {
        /// What was asked for.
        target: String,
        /// The earliest second.
        first: StoreSecond,
        /// The latest second.
        last: StoreSecond,
    },
    /// No snapshot has that name, or it does not count.
    #[error(
        "no snapshot \"{name}\" can be restored from; nothing was changed; name another one (`tidemark snapshots` lists them)"
    )]
    SnapshotMissing {
        /// The name.
        name: String,
    },
    /// Outcomes were recorded, and nothing has them any more.
    #[error(
        "what was recorded of the seconds {first} to {last} is lost ({why}): no snapshot and no archive has it; nothing was changed; \
         {remedy}"
    )]
    OutcomesLost {
        /// The first second.
        first: StoreSecond,
        /// The last second.
        last: StoreSecond,
        /// What is damaged.
        why: String,
        /// What that means.
        cause: FailureCause,
        /// What to do.
        remedy: &'static str,
    },
    /// A restored index was not audited up to the log's floor: no writer goes on from there unasked.
    #[error(
        "the restored index was audited up to {audited} only, and what lies below {floor} may have been cleaned up from the log since: a \
         correction between them is not found there any more; nothing was changed; restore the index once more, to the latest time \
         (`tidemark restore --latest`) or another one that was audited up to there, then promote it, or let outcomes stand as they were \
         seen: `tidemark promote --decide-again`"
    )]
    PromotionBelowFloor {
        /// What lies below it had its last look.
        audited: LogCursor,
        /// The log's floor.
        floor: LogCursor,
    },
    /// Another generation takes the place of this one.
    #[error(
        "the index is being switched from generation \"{generation}\" to another one; nothing is published here any more; open the index \
         again and go on in the generation that is open then"
    )]
    Switching {
        /// The generation.
        generation: Generation,
    },
}

impl From<SwitchError> for IngestError {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Chain(error) => Self::Root(error),
            SwitchError::Acquire(error) => Self::Acquire(error),
            SwitchError::Publish(error) => Self::Publish(error),
            SwitchError::Clock(error) => Self::Clock(error),
            SwitchError::Store(error) => Self::Store(error),
        }
    }
}

impl IngestError {
    /// Whether to retry: nothing was written, and what failed may recover while the ingest runs.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Clock(_)
            | Self::Store(_)
            | Self::EntryStreamBroken
            | Self::Engine(_)
            | Self::Acquire(AcquireError::Clock(_)) => true,
            Self::Root(error)
            | Self::Publish(PublishError::Chain(error))
            | Self::Acquire(AcquireError::Chain(error)) => is_retryable_chain_error(error),
            Self::Publish(_)
            | Self::Acquire(_)
            | Self::Archive(_)
            | Self::NothingRecorded { .. }
            | Self::OriginOfAnotherLog { .. }
            | Self::OriginOverlaps { .. }
            | Self::OriginLost { .. }
            | Self::Switching { .. }
            | Self::OutsideRecoveryWindow { .. }
            | Self::OutcomesLost { .. }
            | Self::SourcesDamaged { .. }
            | Self::PromotionBelowFloor { .. }
            | Self::SnapshotMissing { .. } => false,
        }
    }

    /// Whether what was read is damaged or gone: another source of the same records may be whole.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Engine(EngineError::Damaged { .. } | EngineError::Gone { .. })
                | Self::Archive(SnapshotError::ArchiveDamaged { .. })
                | Self::Root(CatalogError::Corrupt { .. })
                | Self::SourcesDamaged { .. }
        )
    }

    /// Whether the outcome of a write is unknown: the process ends, and the next one reads it.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Root(error) | Self::Acquire(AcquireError::Chain(error)) => {
                matches!(error, CatalogError::Unknown { .. })
            }
            Self::Publish(error) => {
                matches!(error, PublishError::Unknown { .. } | PublishError::Chain(CatalogError::Unknown { .. }))
            }
            Self::Archive(error) => error.is_unknown(),
            _ => false,
        }
    }
}

fn is_retryable_chain_error(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Store(_) | CatalogError::Conflicts { .. } | CatalogError::Corrupt { .. })
}

impl ToCause for IngestError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Acquire(AcquireError::Chain(error)) | Self::Root(error) => error.to_cause(),
            Self::Acquire(AcquireError::Clock(error)) | Self::Clock(error) => error.to_cause(),
            Self::Publish(error) => error.to_cause(),
            Self::Store(error) => error.to_cause(),
            Self::Engine(error) => error.to_cause(),
            Self::Archive(error) => error.to_cause(),
            Self::NothingRecorded { url } | Self::OriginOverlaps { url, .. } | Self::OriginOfAnotherLog { url, .. } => {
                FailureCause::at(Reason::InvalidURL, url)
            }
            Self::OriginLost { source, .. } => source.to_cause(),
            Self::Switching { .. } => FailureCause::of(Reason::GenerationBusy),
            Self::OutsideRecoveryWindow { .. } => FailureCause::of(Reason::OutsideRecoveryWindow),
            Self::SnapshotMissing { .. } => FailureCause::of(Reason::SnapshotMissing),
            Self::OutcomesLost { cause, .. } | Self::SourcesDamaged { cause, .. } => cause.clone(),
            Self::PromotionBelowFloor { .. } => FailureCause::of(Reason::BelowFloor),
            Self::Acquire(_) | Self::EntryStreamBroken => FailureCause::of(Reason::Internal),
        }
    }
}
