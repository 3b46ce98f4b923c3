//! How failures of Tantivy, of tasks and of the local disk become errors of the engine.

use std::{io, path::Path};

use tidemark_ingest::engine::EngineError;

/// The local disk failed at `path`.
pub(crate) fn disk(path: &Path, source: io::Error) -> EngineError {
    EngineError::Disk { path: path.display().to_string(), source }
}

/// `what` could not be done.
pub(crate) fn refused(what: &str, why: &impl ToString) -> EngineError {
    EngineError::Refused { what: what.to_owned(), why: why.to_string() }
}
