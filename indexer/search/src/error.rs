//! Why a request is not answered.

use std::time::Duration;

use tidemark_wal::Token;

use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};

/// Why a request is not answered. Each kind tells the caller what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SearchError {
    /// A value of the request is invalid: correct it.
    #[error("{detail}")]
    Invalid {
        /// The parameter at fault.
        parameter: &'static str,
        /// What is wrong with it, and what is allowed.
        detail: String,
    },
    /// There is no such entry or entity, as far as the index knows.
    #[error("{what} is not in the index")]
    NotFound {
        /// What was looked for, with its name.
        what: String,
    },
    /// The page belongs to a manifest or generation that is not served any more: start again without the cursor.
    #[error("{detail}")]
    Gone {
        /// What is gone.
        detail: String,
    },
    /// The position belongs to a generation whose records have other seqs in the one that is served: start
    /// again, from a copy of the whole index or from `start`.
    #[error("{detail}")]
    GenerationChanged {
        /// Which position, and what happened to its generation.
        detail: String,
        /// The position before every record of the generation that is served.
        start: String,
    },
    /// The token did not become visible in time: wait longer, or check that it was written at all.
    #[error("entry \"{token}\" is not visible after {} ms", waited.as_millis())]
    NotVisible {
        /// The token that was waited for.
        token: Token,
        /// How long.
        waited: Duration,
    },
    /// Too many queries run, or the query exceeded its time: try again later or ask for less.
    #[error("{detail}")]
    Overloaded {
        /// What ran out.
        detail: String,
    },
    /// Nothing can be served yet: try again later.
    #[error("{detail}")]
    NotReady {
        /// What is missing.
        detail: String,
    },
    /// The object store does not give what the index needs: try again later.
    #[error("{detail}")]
    Storage {
        /// The object, and what the store said.
        detail: String,
        /// Why, and which store is at fault.
        cause: FailureCause,
    },
    /// A fault of this program or of the index's data.
    #[error("{detail}")]
    Internal {
        /// What went wrong; goes to the log, not to the client.
        detail: String,
    },
}

impl SearchError {
    /// A failure of what the index is stored in.
    pub(crate) fn stored(failure: &impl ToCause) -> Self {
        Self::Storage { detail: failure.to_string(), cause: failure.to_cause() }
    }

    /// Why this process cannot serve; `None` where the request is at fault, or nothing is served yet.
    pub(crate) fn to_cause(&self) -> Option<FailureCause> {
        match self {
            Self::Storage { cause, .. } => Some(cause.clone()),
            Self::Internal { .. } => Some(FailureCause::of(Reason::Internal)),
            _ => None,
        }
    }
}
