//! Mutants of the catalog. Each hook returns its first argument unless the simulation turns its mutant on.

use tidemark_store::{StoreSecond, mutant_hooks};

#[cfg(feature = "mutants")]
mod names {
    pub(super) const FENCED_INGEST_PUBLISHES: &str = "FencedIngestPublishes";
    pub(super) const PURGED_GENERATION_REOPENED: &str = "PurgedGenerationReopened";
    pub(super) const OTHER_LOG_ADMITTED: &str = "OtherLogAdmitted";
    pub(super) const COPIED_LOG_ADMITTED: &str = "CopiedLogAdmitted";
    pub(super) const PIN_UNCHECKED: &str = "PinUnchecked";
    pub(super) const PIN_READ_STALE: &str = "PinReadStale";
    pub(super) const PIN_LIST_NAMED_BY_CONTENT: &str = "PinListNamedByContent";
    pub(super) const GARBAGE_GRACE_FROM_CREATION: &str = "GarbageGraceFromCreation";
    pub(super) const GARBAGE_COLLECTOR_UNFENCED: &str = "GarbageCollectorUnfenced";
    pub(super) const GARBAGE_OF_PRESENT_EPOCH: &str = "GarbageOfPresentEpoch";
    pub(super) const GARBAGE_LIST_DROPPED: &str = "GarbageListDropped";

    /// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
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
}

#[cfg(feature = "mutants")]
pub use names::MUTANT_HOOKS;
#[cfg(feature = "mutants")]
#[expect(clippy::wildcard_imports, reason = "each hook names its own")]
use names::*;

mutant_hooks! {
    /// `FencedIngestPublishes`: a writer that lost its epoch publishes all the same.
    pub(crate) fn writer_epoch(own: u64, in_force: u64) -> u64 {
        FENCED_INGEST_PUBLISHES => in_force,
        _ => own,
    }

    /// `PurgedGenerationReopened`: an index that is made again continues the generation that was purged.
    pub(crate) fn remembered_purge<T>(purged: Option<T>) -> Option<T> {
        PURGED_GENERATION_REOPENED => None,
        _ => purged,
    }

    /// `OtherLogAdmitted`: an index takes the records of another log.
    pub(crate) fn is_same_log(same: bool) -> bool {
        OTHER_LOG_ADMITTED => true,
        _ => same,
    }

    /// `CopiedLogAdmitted`: a copy of a log is taken for the log. So is another log under `OtherLogAdmitted`.
    pub(crate) fn is_at_claim(at: bool) -> bool {
        COPIED_LOG_ADMITTED => true,
        OTHER_LOG_ADMITTED => true,
        _ => at,
    }

    /// `PinUnchecked`: a pin counts although the index may have dropped what it holds.
    pub(crate) fn pin_counts(counts: bool) -> bool {
        PIN_UNCHECKED => true,
        _ => counts,
    }

    /// `PinReadStale`: a pin is checked against the manifest of which it was made.
    pub(crate) fn is_pin_read_stale() -> bool {
        PIN_READ_STALE => true,
        _ => false,
    }

    /// `GarbageGraceFromCreation`: the grace counts from when the object was written.
    pub(crate) fn garbage_since(since: Option<StoreSecond>, created: StoreSecond) -> Option<StoreSecond> {
        GARBAGE_GRACE_FROM_CREATION => Some(created),
        _ => since,
    }

    /// `GarbageCollectorUnfenced`: a pass goes on although a later one has begun.
    pub(crate) fn is_own_pass(own: bool) -> bool {
        GARBAGE_COLLECTOR_UNFENCED => true,
        _ => own,
    }

    /// `GarbageOfPresentEpoch`: what the present writer may still publish counts as garbage.
    pub(crate) fn is_of_past_epoch(past: bool) -> bool {
        GARBAGE_OF_PRESENT_EPOCH => true,
        _ => past,
    }

    /// `PinListNamedByContent`: a pin's list has the name that its content had before.
    pub(crate) fn list_name(nonce: String, next_seq: u64) -> String {
        PIN_LIST_NAMED_BY_CONTENT => format!("{next_seq:032x}"),
        _ => nonce,
    }

    /// `PinListNamedByContent`: a list that exists already is taken for one's own.
    pub(crate) fn is_list_named_by_content() -> bool {
        PIN_LIST_NAMED_BY_CONTENT => true,
        _ => false,
    }

    /// `GarbageListDropped`: a list that is not due is dropped although objects that it names are still there.
    pub(crate) fn keeps_list(keeps: bool) -> bool {
        GARBAGE_LIST_DROPPED => false,
        _ => keeps,
    }
}
