//! Mutants of the log protocol. Each hook returns its first argument unless the simulation turns its mutant on.

use std::time::Duration;

use tidemark_store::{StoreSecond, mutants::is_active};

const FOREIGN_DESCRIPTOR_ACCEPTED: &str = "ForeignDescriptorAccepted";
const OUTCOME_FROM_EXPIRY_ALONE: &str = "OutcomeFromExpiryAlone";
const LOWERED_EXPIRY_AT_ONCE: &str = "LoweredExpiryAtOnce";
const ACKNOWLEDGED_UNSEEN: &str = "AcknowledgedUnseen";
const GROUP_KEY_COLLIDES: &str = "GroupKeyCollides";
const UNREADABLE_WITHOUT_PROOF: &str = "UnreadableWithoutProof";
const UNBOUNDED_UNREADABLE: &str = "UnboundedUnreadable";
const LABEL_OF_LATER_ENTRY: &str = "LabelOfLaterEntry";
const CLOCKS_TAKEN_FOR_EQUAL: &str = "ClocksTakenForEqual";

/// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
#[cfg(feature = "mutants")]
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

/// `ForeignDescriptorAccepted`: a descriptor of another operation counts as proof.
pub(crate) fn has_evidence(has: bool) -> bool {
    has || is_active(FOREIGN_DESCRIPTOR_ACCEPTED)
}

/// `OutcomeFromExpiryAlone`: an entry counts as committed once its expiry has passed, whatever its descriptors say.
pub(crate) fn outcome<T>(decided: T, committed: T) -> T {
    if is_active(OUTCOME_FROM_EXPIRY_ALONE) { committed } else { decided }
}

/// `LoweredExpiryAtOnce`: a lowered expiry moves the horizon at once.
pub(crate) fn horizon(of_all_sets: StoreSecond, of_newest_set: StoreSecond) -> StoreSecond {
    if is_active(LOWERED_EXPIRY_AT_ONCE) { of_newest_set } else { of_all_sets }
}

/// `AcknowledgedUnseen`: a writer acknowledges without looking at when its descriptor became visible.
pub(crate) fn seen_in_time(seen: bool) -> bool {
    seen || is_active(ACKNOWLEDGED_UNSEEN)
}

/// `GroupKeyCollides`: what stands between a group's key and the number of an operation may be part of another key.
pub(crate) fn member_separator(separator: char) -> char {
    if is_active(GROUP_KEY_COLLIDES) { '#' } else { separator }
}

/// `UnreadableWithoutProof`: a refused object is judged although nothing shows that the store gives others.
pub(crate) fn is_proven(proven: bool) -> bool {
    proven || is_active(UNREADABLE_WITHOUT_PROOF)
}

/// `UnboundedUnreadable`: any number of objects is judged without being read.
pub(crate) fn are_too_many(too_many: bool) -> bool {
    too_many && !is_active(UNBOUNDED_UNREADABLE)
}

/// `ClocksTakenForEqual`: no clock of a store is ahead of another's.
pub(crate) fn clock_tolerance(tolerance: Duration) -> Duration {
    if is_active(CLOCKS_TAKEN_FOR_EQUAL) { Duration::ZERO } else { tolerance }
}

/// `LabelOfLaterEntry`: what a label holds is taken for each of several entries that may have written it.
pub(crate) fn later_entries<T>(entries: Vec<T>) -> Vec<T> {
    if is_active(LABEL_OF_LATER_ENTRY) { Vec::new() } else { entries }
}
