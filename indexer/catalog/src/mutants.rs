//! Mutants of the catalog. Each hook returns its first argument unless the simulation turns its mutant on.

use tidemark_store::mutants::is_active;

/// `FencedIngestPublishes`: a writer that lost its epoch publishes all the same.
pub(crate) fn writer_epoch(own: u64, in_force: u64) -> u64 {
    if is_active("FencedIngestPublishes") { in_force } else { own }
}

/// `PurgedGenerationReopened`: an index that is made again continues the generation that was purged.
pub(crate) fn remembered_purge<T>(purged: Option<T>) -> Option<T> {
    purged.filter(|_| !is_active("PurgedGenerationReopened"))
}

/// `OtherLogAdmitted`: an index takes the records of another log.
pub(crate) fn is_same_log(same: bool) -> bool {
    same || is_active("OtherLogAdmitted")
}
