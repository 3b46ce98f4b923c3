//! The faults that can be planted, by name.

use tidemark_store::planted::Fault;

/// Every fault.
pub const FAULTS: [Fault; 21] = [
    Fault::OutcomeFromExpiryAlone,
    Fault::OverwritableDescriptor,
    Fault::ClockReadAfterListing,
    Fault::CleanupOnUnknown,
    Fault::NoBoundaryCheck,
    Fault::CursorOffByOne,
    Fault::FencedIngestPublishes,
    Fault::CompactionLosesCorrection,
    Fault::SidecarAfterCause,
    Fault::CandidatesFenceEachOther,
    Fault::ForeignDescriptorAccepted,
    Fault::OutcomeDecidedAgain,
    Fault::LoweredExpiryAtOnce,
    Fault::AcknowledgedUnseen,
    Fault::LateMakesDuplicate,
    Fault::SlotBelowBoundaryAccepted,
    Fault::PurgeBeforeClosing,
    Fault::PurgeByPrefix,
    Fault::PurgeDropsFence,
    Fault::PurgedGenerationReopened,
    Fault::OtherLogAdmitted,
];

/// The fault of this name.
pub fn fault(name: &str) -> Option<Fault> {
    FAULTS.into_iter().find(|fault| format!("{fault:?}") == name)
}
