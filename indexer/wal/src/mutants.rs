//! Mutants of the log protocol. Each hook returns its first argument unless the simulation turns its mutant on.

use std::time::Duration;

use tidemark_store::{StoreSecond, mutant_hooks};

#[cfg(feature = "mutants")]
mod names {
    pub(super) const FOREIGN_DESCRIPTOR_ACCEPTED: &str = "ForeignDescriptorAccepted";
    pub(super) const OUTCOME_FROM_EXPIRY_ALONE: &str = "OutcomeFromExpiryAlone";
    pub(super) const LOWERED_EXPIRY_AT_ONCE: &str = "LoweredExpiryAtOnce";
    pub(super) const ACKNOWLEDGED_UNSEEN: &str = "AcknowledgedUnseen";
    pub(super) const GROUP_KEY_COLLIDES: &str = "GroupKeyCollides";
    pub(super) const UNREADABLE_WITHOUT_PROOF: &str = "UnreadableWithoutProof";
    pub(super) const UNBOUNDED_UNREADABLE: &str = "UnboundedUnreadable";
    pub(super) const CLOCKS_TAKEN_FOR_EQUAL: &str = "ClocksTakenForEqual";
    pub(super) const LABEL_OF_LATER_ENTRY: &str = "LabelOfLaterEntry";

    /// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
    pub const MUTANT_HOOKS: &[&str] = &[
        FOREIGN_DESCRIPTOR_ACCEPTED,
        OUTCOME_FROM_EXPIRY_ALONE,
        LOWERED_EXPIRY_AT_ONCE,
        ACKNOWLEDGED_UNSEEN,
        GROUP_KEY_COLLIDES,
        UNREADABLE_WITHOUT_PROOF,
        UNBOUNDED_UNREADABLE,
        CLOCKS_TAKEN_FOR_EQUAL,
        LABEL_OF_LATER_ENTRY,
    ];
}

#[cfg(feature = "mutants")]
pub use names::MUTANT_HOOKS;
#[cfg(feature = "mutants")]
#[expect(clippy::wildcard_imports, reason = "each hook names its own")]
use names::*;

mutant_hooks! {
    /// `ForeignDescriptorAccepted`: a descriptor of another operation counts as proof.
    pub(crate) fn has_evidence(has: bool) -> bool {
        FOREIGN_DESCRIPTOR_ACCEPTED => true,
        _ => has,
    }

    /// `OutcomeFromExpiryAlone`: an entry counts as committed once its expiry has passed, whatever its descriptors say.
    pub(crate) fn outcome<T>(decided: T, committed: T) -> T {
        OUTCOME_FROM_EXPIRY_ALONE => committed,
        _ => decided,
    }

    /// `LoweredExpiryAtOnce`: a lowered expiry moves the horizon at once.
    pub(crate) fn horizon(of_all_sets: StoreSecond, of_newest_set: StoreSecond) -> StoreSecond {
        LOWERED_EXPIRY_AT_ONCE => of_newest_set,
        _ => of_all_sets,
    }

    /// `AcknowledgedUnseen`: a writer acknowledges without looking at when its descriptor became visible.
    pub(crate) fn seen_in_time(seen: bool) -> bool {
        ACKNOWLEDGED_UNSEEN => true,
        _ => seen,
    }

    /// `GroupKeyCollides`: what stands between a group's key and the number of an operation may be part of another key.
    pub(crate) fn member_separator(separator: char) -> char {
        GROUP_KEY_COLLIDES => '#',
        _ => separator,
    }

    /// `UnreadableWithoutProof`: a refused object is judged although nothing shows that the store gives others.
    pub(crate) fn is_proven(proven: bool) -> bool {
        UNREADABLE_WITHOUT_PROOF => true,
        _ => proven,
    }

    /// `UnboundedUnreadable`: any number of objects is judged without being read.
    pub(crate) fn are_too_many(too_many: bool) -> bool {
        UNBOUNDED_UNREADABLE => false,
        _ => too_many,
    }

    /// `ClocksTakenForEqual`: no clock of a store is ahead of another's.
    pub(crate) fn clock_tolerance(tolerance: Duration) -> Duration {
        CLOCKS_TAKEN_FOR_EQUAL => Duration::ZERO,
        _ => tolerance,
    }

    /// `LabelOfLaterEntry`: what a label holds is taken for each of several entries that may have written it.
    pub(crate) fn later_entries<T>(entries: Vec<T>) -> Vec<T> {
        LABEL_OF_LATER_ENTRY => Vec::new(),
        _ => entries,
    }
}
