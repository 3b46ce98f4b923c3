#![doc = include_str!("../README.md")]

mod digest;
mod error;
mod identity;
mod index;
mod log_cursor;
mod manifest;
mod mutants;
mod names;
mod purge;
mod root;
mod root_chain;
mod writer;

pub use digest::SetDigest;
pub use error::{AcquireError, CatalogError, PublishError, PurgeError, TransactionRejected};
pub use identity::{IndexOwner, LogClaim, LogId, WriterIdentity};
pub use index::IndexChain;
pub use log_cursor::LogCursor;
pub use manifest::{
    CompactionResult, FIRST_SEQ, GenerationEnd, IndexTotals, LeaseHolder, MAX_TOMBSTONES, Manifest, ManifestPin,
    ObjectTombstone, PublishRequest, RecordCounts, SegmentMeta, SidecarMeta,
};
#[cfg(feature = "mutants")]
pub use mutants::MUTANT_HOOKS;
pub use names::{Generation, InvalidGeneration, InvalidObjectName, ObjectKind, ObjectName};
pub use purge::{IndexPurge, PurgeStats, PurgeTarget};
pub use root::{
    FeedConsumer, IndexRegistration, LogCleaner, ParameterSet, ProbeRecord, PurgedIndex, RegistrationOutcome, RootState,
};
pub use root_chain::RootChain;
pub use writer::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, StandbyReason, WriterLease, heartbeat};
