//! Mutants of the catalog. Each hook returns its first argument unless the simulation turns its mutant on.

use tidemark_store::{StoreSecond, mutants::is_active};

use crate::manifest::Manifest;

const FENCED_INGEST_PUBLISHES: &str = "FencedIngestPublishes";
const PURGED_GENERATION_REOPENED: &str = "PurgedGenerationReopened";
const OTHER_LOG_ADMITTED: &str = "OtherLogAdmitted";
const COPIED_LOG_ADMITTED: &str = "CopiedLogAdmitted";
const PIN_UNCHECKED: &str = "PinUnchecked";
const PIN_READ_STALE: &str = "PinReadStale";
const PIN_LIST_NAMED_BY_CONTENT: &str = "PinListNamedByContent";
const GARBAGE_GRACE_FROM_CREATION: &str = "GarbageGraceFromCreation";
const GARBAGE_COLLECTOR_UNFENCED: &str = "GarbageCollectorUnfenced";
const GARBAGE_OF_PRESENT_EPOCH: &str = "GarbageOfPresentEpoch";
const GARBAGE_LIST_DROPPED: &str = "GarbageListDropped";

/// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
#[cfg(feature = "mutants")]
pub const MUTANT_HOOKS: &[&str] = &[
    FENCED_INGEST_PUBLISHES,
    PURGED_GENERATION_REOPENED,
    OTHER_LOG_ADMITTED,
    COPIED_LOG_ADMITTED,
    PIN_UNCHECKED,
    PIN_READ_STALE,
    PIN_LIST_NAMED_BY_CONTENT,
    GARBAGE_GRACE_FROM_CREATION,
    GARBAGE_COLLECTOR_UNFENCED,
    GARBAGE_OF_PRESENT_EPOCH,
    GARBAGE_LIST_DROPPED,
];

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

/// `CopiedLogAdmitted`: a copy of a log is taken for the log. So is another log under `OtherLogAdmitted`.
pub(crate) fn is_at_claim(at: bool) -> bool {
    at || is_active(COPIED_LOG_ADMITTED) || is_active(OTHER_LOG_ADMITTED)
}

/// `PinUnchecked`: a pin counts although the index may have dropped what it holds.
pub(crate) fn pin_counts(counts: bool) -> bool {
    counts || is_active(PIN_UNCHECKED)
}

/// `PinReadStale`: a pin is checked against the manifest of which it was made.
pub(crate) fn is_pin_read_stale() -> bool {
    is_active(PIN_READ_STALE)
}

/// `GarbageGraceFromCreation`: the grace counts from when the object was written.
pub(crate) fn garbage_since(since: Option<StoreSecond>, created: StoreSecond) -> Option<StoreSecond> {
    if is_active(GARBAGE_GRACE_FROM_CREATION) { Some(created) } else { since }
}

/// `GarbageCollectorUnfenced`: a pass goes on although a later one has begun.
pub(crate) fn is_own_pass(own: bool) -> bool {
    own || is_active(GARBAGE_COLLECTOR_UNFENCED)
}

/// `GarbageOfPresentEpoch`: what the present writer may still publish counts as garbage.
pub(crate) fn is_of_past_epoch(past: bool) -> bool {
    past || is_active(GARBAGE_OF_PRESENT_EPOCH)
}

/// `PinListNamedByContent`: a pin's list has the name that its content had before.
pub(crate) fn list_name(nonce: &str, manifest: &Manifest) -> String {
    if is_list_named_by_content() { format!("{:032x}", manifest.next_seq) } else { nonce.to_owned() }
}

/// `PinListNamedByContent`: a list that exists already is taken for one's own.
pub(crate) fn is_list_named_by_content() -> bool {
    is_active(PIN_LIST_NAMED_BY_CONTENT)
}

/// `GarbageListDropped`: a list that is not due is dropped although objects that it names are still there.
pub(crate) fn keeps_list(keeps: bool) -> bool {
    keeps && !is_active(GARBAGE_LIST_DROPPED)
}
