#![doc = include_str!("../README.md")]

mod digest;
mod error;
mod garbage;
mod garbage_collector;
mod identity;
mod index;
mod log_cursor;
mod manifest;
mod mutants;
mod names;
mod pins;
mod purge;
mod root;
mod root_chain;
mod writer;

pub use digest::SetDigest;
pub use error::{AcquireError, CatalogError, PublishError, PurgeError, TransactionRejected};
pub use garbage::{GARBAGE_GRACE, GarbageCandidate, GarbageState, MAX_GARBAGE_CANDIDATES};
pub use garbage_collector::{GarbageCollector, GarbageReport};
pub use identity::{IndexOwner, LogClaim, LogId, WriterIdentity};
pub use index::IndexChain;
pub use log_cursor::LogCursor;
pub use manifest::{
    CompactionResult, FIRST_SEQ, GenerationEnd, IndexTotals, LeaseHolder, Manifest, PublishRequest, RecordCounts,
    SegmentMeta, SidecarMeta,
};
#[cfg(feature = "mutants")]
pub use mutants::MUTANT_HOOKS;
pub use names::{Generation, InvalidGeneration, InvalidObjectName, ObjectKind, ObjectName};
pub use pins::{IndexPin, PinChain, PinRegister, PinnedManifest};
pub use purge::{IndexPurge, PurgeStats, PurgeTarget};
pub use root::{
    FeedConsumer, IndexRegistration, LogCleaner, ParameterSet, ProbeRecord, PurgedIndex, RegistrationOutcome, RootState,
};
pub use root_chain::RootChain;
pub use writer::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, StandbyReason, WriterLease, heartbeat};
