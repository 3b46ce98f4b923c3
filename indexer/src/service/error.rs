//! Why a service does not start, or ends.

use tidemark_catalog::{AcquireError, ChainError, PublishError};
use tidemark_wal::StoreError;

use crate::{engine::EngineError, git::ImportError, ingest::IngestError};

/// Why a service does not start, or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A store cannot be opened or reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chain cannot be read, or refuses.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The index cannot be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ingest ended.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// A git repository's history could not be appended.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A store does not hold what the protocol needs.
    #[error(
        "\"{store}\" broke a promise: {line}: {detail}; it must not be written to, a log in it could lose entries; use another store \
         (`tidemark check` tells more)"
    )]
    Unfit {
        /// The store.
        store: String,
        /// The check that failed.
        line: String,
        /// What was seen.
        detail: String,
    },
    /// Nothing says how long signed URLs last.
    #[error(
        "the log \"{log}\" has no parameters yet; nothing is indexed without them; give --expiry, how long its signed URLs last at \
         most"
    )]
    NoExpiry {
        /// The log.
        log: String,
    },
    /// The address cannot be listened on.
    #[error(
        "\"{address}\" cannot be listened on: {source}; nobody would reach this process; choose another address with --listen"
    )]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// A folder or file of this machine cannot be used.
    #[error("\"{path}\" cannot be used: {source}; nothing can be kept there; give a folder that this user may write", path = path.display())]
    Disk {
        /// The folder or file.
        path: std::path::PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Another process runs on the same folder.
    #[error("another `tidemark dev` runs on \"{folder}\"; this one does nothing; stop that one or choose another folder with --dir", folder = folder.display())]
    Busy {
        /// The folder.
        folder: std::path::PathBuf,
    },
    /// A task of this process ended on its own.
    #[error("the {task} ended: {why}; this process does nothing more; start it again")]
    Ended {
        /// Which one.
        task: &'static str,
        /// Why.
        why: String,
    },
}

impl ServiceError {
    /// Whether nobody can say what became of a write: whoever starts next reads it.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Self::Chain(error)
            | Self::Ingest(IngestError::Root(error) | IngestError::Acquire(AcquireError::Chain(error))) => {
                matches!(error, ChainError::Unknown { .. })
            }
            Self::Ingest(IngestError::Publish(error)) => matches!(error, PublishError::Unknown { .. }),
            _ => false,
        }
    }
}
