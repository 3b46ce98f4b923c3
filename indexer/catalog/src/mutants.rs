//! Mutants of the catalog. Each hook returns its first argument unless the simulation turns its mutant on.

use tidemark_store::mutants::is_active;

const FENCED_INGEST_PUBLISHES: &str = "FencedIngestPublishes";
const PURGED_GENERATION_REOPENED: &str = "PurgedGenerationReopened";
const OTHER_LOG_ADMITTED: &str = "OtherLogAdmitted";

/// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
#[cfg(feature = "mutants")]
pub const MUTANT_HOOKS: &[&str] = &[FENCED_INGEST_PUBLISHES, PURGED_GENERATION_REOPENED, OTHER_LOG_ADMITTED];

/// `FencedIngestPublishes`: a writer that lost its epoch publishes all the same.
pub(crate) fn writer_epoch(own: u64, in_force: u64) -> u64 {
    if is_active(FENCED_INGEST_PUBLISHES) { in_force } else { own }
}

/// `PurgedGenerationReopened`: an index that is made again continues the generation that was purged.
pub(crate) fn remembered_purge<T>(purged: Option<T>) -> Option<T> {
    purged.filter(|_| !is_active(PURGED_GENERATION_REOPENED))
}

/// `OtherLogAdmitted`: an index takes the records of another log.
pub(crate) fn is_same_log(same: bool) -> bool {
    same || is_active(OTHER_LOG_ADMITTED)
}
