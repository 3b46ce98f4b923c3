//! Mutants of the catalog. Each hook returns its first argument unless the simulation turns its mutant on.

use tidemark_store::{StoreSecond, mutant_hooks};

use crate::{error::TransactionRejected, log_cursor::LogCursor};

mutant_hooks! {
    /// `FencedIngestPublishes`: a writer that lost its epoch publishes all the same.
    pub(crate) fn writer_epoch(own: u64, in_force: u64) -> u64 {
        FencedIngestPublishes => in_force,
        _ => own,
    }

    /// `PurgedGenerationReopened`: an index that is made again continues the generation that was purged.
    pub(crate) fn remembered_purge<T>(purged: Option<T>) -> Option<T> {
        PurgedGenerationReopened => None,
        _ => purged,
    }

    /// `OtherLogAdmitted`: an index takes the records of another log. `CopiedLogAdmitted`: a copy of a log is taken for the log.
    pub(crate) fn log_refusal(refusal: Option<TransactionRejected>) -> Option<TransactionRejected> {
        OtherLogAdmitted => None,
        CopiedLogAdmitted => refusal.filter(|refusal| !matches!(refusal, TransactionRejected::LogMoved { .. })),
        _ => refusal,
    }

    /// `UnfinishedSuccessorRefused`: a generation that the index switched to is opened only once its maker has finished it.
    pub(crate) fn opens_unfinished() -> bool {
        UnfinishedSuccessorRefused => false,
        _ => true,
    }

    /// `ClosedWithOldDigest`: a generation ends in favour of one that does not have all of its records.
    pub(crate) fn is_same_index(same: bool) -> bool {
        ClosedWithOldDigest => true,
        _ => same,
    }

    /// `AbandonedUnfenced`: a generation is given up while its maker may still close the one before in favour of it.
    pub(crate) fn fences_maker() -> bool {
        AbandonedUnfenced => false,
        _ => true,
    }

    /// `PinUnchecked`: a pin counts although the index may have dropped what it holds.
    pub(crate) fn pin_counts(counts: bool) -> bool {
        PinUnchecked => true,
        _ => counts,
    }

    /// `PinReadStale`: a pin is checked against the manifest of which it was made.
    pub(crate) fn is_pin_read_stale() -> bool {
        PinReadStale => true,
        _ => false,
    }

    /// `GarbageGraceFromCreation`: the grace counts from when the object was written.
    pub(crate) fn garbage_since(since: Option<StoreSecond>, created: StoreSecond) -> Option<StoreSecond> {
        GarbageGraceFromCreation => Some(created),
        _ => since,
    }

    /// `GarbageCollectorUnfenced`: a pass goes on although a later one has begun.
    pub(crate) fn is_own_pass(own: bool) -> bool {
        GarbageCollectorUnfenced => true,
        _ => own,
    }

    /// `GarbageOfPresentEpoch`: what the present writer may still publish counts as garbage.
    pub(crate) fn is_of_past_epoch(past: bool) -> bool {
        GarbageOfPresentEpoch => true,
        _ => past,
    }

    /// `PinListNamedByContent`: a pin's list has the name that its content had before.
    pub(crate) fn list_name(nonce: String, next_seq: u64) -> String {
        PinListNamedByContent => format!("{next_seq:032x}"),
        _ => nonce,
    }

    /// `PinListNamedByContent`: a list that exists already is taken for one's own.
    pub(crate) fn is_list_named_by_content() -> bool {
        PinListNamedByContent => true,
        _ => false,
    }

    /// `GarbageListDropped`: a list that is not due is dropped although objects that it names are still there.
    pub(crate) fn keeps_list(keeps: bool) -> bool {
        GarbageListDropped => false,
        _ => keeps,
    }

    /// `PinsOfCopiesIgnored`: what nothing but copies of snapshots names is taken for their garbage.
    pub(crate) fn counts_pins_of_copies() -> bool {
        PinsOfCopiesIgnored => false,
        _ => true,
    }

    /// `UnknownKeepsIgnored`: an index of which it is not known what it needs holds no floor back.
    pub(crate) fn holds_floor(keeps: LogCursor) -> bool {
        UnknownKeepsIgnored => keeps > LogCursor::default(),
        _ => true,
    }

    /// `FloorBesideRegistration`: what indexes keep was looked at before, and is not looked at again in the transaction.
    pub(crate) fn is_floor_checked() -> bool {
        FloorBesideRegistration => false,
        _ => true,
    }
}
