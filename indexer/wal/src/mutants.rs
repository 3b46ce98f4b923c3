//! Mutants of the log protocol. Each hook returns its first argument unless the simulation turns its mutant on.

use std::time::Duration;

use tidemark_store::{StoreSecond, mutant_hooks};

mutant_hooks! {
    /// `ForeignDescriptorAccepted`: a descriptor of another operation counts as proof.
    pub(crate) fn has_evidence(has: bool) -> bool {
        ForeignDescriptorAccepted => true,
        _ => has,
    }

    /// `OutcomeFromExpiryAlone`: an entry counts as committed once its expiry has passed, whatever its descriptors say.
    pub(crate) fn outcome<T>(decided: T, committed: T) -> T {
        OutcomeFromExpiryAlone => committed,
        _ => decided,
    }

    /// `LoweredExpiryAtOnce`: a lowered expiry moves the horizon at once.
    pub(crate) fn horizon(of_all_sets: StoreSecond, of_newest_set: StoreSecond) -> StoreSecond {
        LoweredExpiryAtOnce => of_newest_set,
        _ => of_all_sets,
    }

    /// `AcknowledgedUnseen`: a writer acknowledges without looking at when its descriptor became visible.
    pub(crate) fn seen_in_time(seen: bool) -> bool {
        AcknowledgedUnseen => true,
        _ => seen,
    }

    /// `GroupKeyCollides`: what stands between a group's key and the number of an operation may be part of another key.
    pub(crate) fn member_separator(separator: char) -> char {
        GroupKeyCollides => '#',
        _ => separator,
    }

    /// `UnreadableWithoutProof`: a refused object is judged although nothing shows that the store gives others.
    pub(crate) fn is_proven(proven: bool) -> bool {
        UnreadableWithoutProof => true,
        _ => proven,
    }

    /// `UnboundedUnreadable`: any number of objects is judged without being read.
    pub(crate) fn are_too_many(too_many: bool) -> bool {
        UnboundedUnreadable => false,
        _ => too_many,
    }

    /// `ClocksTakenForEqual`: no clock of a store is ahead of another's.
    pub(crate) fn clock_tolerance(tolerance: Duration) -> Duration {
        ClocksTakenForEqual => Duration::ZERO,
        _ => tolerance,
    }

    /// `LockCheckedBeforeCommit`: what a lock was before the slot of a commit was taken decides whether it counts.
    pub(crate) fn overtaken_by(at_slot: Option<u64>, before: Option<u64>) -> Option<u64> {
        LockCheckedBeforeCommit => before,
        _ => at_slot,
    }

    /// `NewHolderActsAtOnce`: a new holder does not wait for what an earlier one may still complete.
    pub(crate) fn earlier_commits(until: Option<StoreSecond>) -> Option<StoreSecond> {
        NewHolderActsAtOnce => None,
        _ => until,
    }

    /// `LabelOfLaterEntry`: what a label holds is taken for each of several entries that may have written it.
    pub(crate) fn later_entries<T>(entries: Vec<T>) -> Vec<T> {
        LabelOfLaterEntry => Vec::new(),
        _ => entries,
    }
}
