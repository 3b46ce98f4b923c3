//! The errors of an ingest: which ones end it, and which ones are retried.

use tidemark_catalog::{AcquireError, CatalogError, PublishError};
use tidemark_crds::Reason;
use tidemark_store::{ClockError, StoreError};

use crate::{
    cause::{FailureCause, ToCause},
    engine::EngineError,
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
            Self::Publish(_) | Self::Acquire(_) => false,
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
            Self::Acquire(_) | Self::EntryStreamBroken => FailureCause::of(Reason::Internal),
        }
    }
}
