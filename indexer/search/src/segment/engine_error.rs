//! How failures of Tantivy, of tasks and of the local disk become errors of the engine.

use std::{io, path::Path};

use tantivy::{TantivyError, directory::error::OpenWriteError};
use tidemark_ingest::engine::EngineError;

use super::disk_budget::{DiskBudget, is_full};

/// The local disk failed at `path`.
pub(crate) fn disk(path: &Path, source: io::Error) -> EngineError {
    EngineError::Disk { path: path.display().to_string(), source }
}

/// `what` could not be done.
pub(crate) fn refused(what: &str, why: &impl ToString) -> EngineError {
    EngineError::Refused { what: what.to_owned(), why: why.to_string() }
}

/// Tantivy could not do `what` with files in the folder of `budget`. If the disk is full, the budget is lowered.
pub(crate) fn not_written(what: &str, error: &TantivyError, budget: &DiskBudget) -> EngineError {
    let source = match error {
        TantivyError::IoError(source) => Some(source),
        TantivyError::OpenWriteError(OpenWriteError::IoError { io_error, .. }) => Some(io_error),
        _ => None,
    };
    match source.filter(|source| is_full(source)) {
        Some(source) => {
            budget.disk_was_full();
            disk(budget.folder(), io::Error::new(source.kind(), source.to_string()))
        }
        None => refused(what, error),
    }
}

/// A file in the folder of `budget` could not be written. If the disk is full, the budget is lowered.
pub(crate) fn disk_write(budget: &DiskBudget, source: io::Error) -> EngineError {
    if is_full(&source) {
        budget.disk_was_full();
    }
    disk(budget.folder(), source)
}
