//! Mutants of the log protocol. Each hook returns its first argument unless the simulation turns its mutant on.

use tidemark_store::{StoreSecond, mutants::is_active};

/// `ForeignDescriptorAccepted`: a descriptor of another operation counts as proof.
pub(crate) fn has_evidence(has: bool) -> bool {
    has || is_active("ForeignDescriptorAccepted")
}

/// `OutcomeFromExpiryAlone`: an entry counts as committed once its expiry has passed, whatever its descriptors say.
pub(crate) fn outcome<T>(decided: T, committed: T) -> T {
    if is_active("OutcomeFromExpiryAlone") { committed } else { decided }
}

/// `LoweredExpiryAtOnce`: a lowered expiry moves the horizon at once.
pub(crate) fn horizon(of_all_sets: StoreSecond, of_newest_set: StoreSecond) -> StoreSecond {
    if is_active("LoweredExpiryAtOnce") { of_newest_set } else { of_all_sets }
}

/// `AcknowledgedUnseen`: a writer acknowledges without looking at when its descriptor became visible.
pub(crate) fn seen_in_time(seen: bool) -> bool {
    seen || is_active("AcknowledgedUnseen")
}
