//! Faults that the simulation plants to prove that it would catch them.
//!
//! [`planted`] is constant `false` unless the crate feature of the same name is on; only the simulation turns it on.

/// A fault, named after what it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An entry counts as committed once its expiry has passed, whatever its descriptors say.
    OutcomeFromExpiryAlone,
    /// A descriptor may be overwritten.
    OverwritableDescriptor,
    /// The clock is read after the first page of the listing that the horizon is used for.
    ClockReadAfterListing,
    /// A writer deletes what it wrote when the outcome of the write is unknown.
    CleanupOnUnknown,
    /// The boundary of a chain is not looked at after an append.
    NoBoundaryCheck,
    /// The cursor's second counts as decided too.
    CursorOffByOne,
    /// An indexer that lost its epoch publishes all the same.
    FencedIngestPublishes,
    /// A compaction drops the sidecar that was published while it ran.
    CompactionLosesCorrection,
    /// A sidecar is published one manifest after the records that caused it.
    SidecarAfterCause,
    /// A candidate takes over without waiting for the holder to fall silent.
    CandidatesFenceEachOther,
    /// A descriptor of another operation counts as proof.
    ForeignDescriptorAccepted,
    /// A rebuild decides outcomes again instead of taking the recorded ones.
    OutcomeDecidedAgain,
    /// A lowered expiry moves the horizon at once.
    LoweredExpiryAtOnce,
    /// A writer acknowledges without looking at when its descriptor became visible.
    AcknowledgedUnseen,
    /// A late operation makes a duplicate of its retry.
    LateMakesDuplicate,
    /// A reader accepts a slot of a chain without looking at the boundary.
    SlotBelowBoundaryAccepted,
    /// A purge deletes before the index is closed.
    PurgeBeforeClosing,
    /// A purge deletes whatever lies below the index's prefix.
    PurgeByPrefix,
    /// A purge deletes the closing record and the boundary, too.
    PurgeDropsFence,
    /// An index that is made again continues the generation that was purged.
    PurgedGenerationReopened,
    /// An index takes the records of another log.
    OtherLogAdmitted,
}

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants `fault` on this thread, in place of the one planted before.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    /// Whether `fault` is planted on this thread.
    pub fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}

#[cfg(not(feature = "planted"))]
mod switch {
    use super::Fault;

    /// Whether `fault` is planted: never, in this build.
    #[inline]
    pub const fn planted(_: Fault) -> bool {
        false
    }
}

pub use switch::*;
