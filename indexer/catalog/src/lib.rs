#![doc = include_str!("../README.md")]

mod digest;
mod error;
mod index;
mod manifest;
mod mutants;
mod names;
mod purge;
mod root;
mod root_chain;
mod writer;

pub use digest::SetDigest;
pub use error::{AcquireError, CatalogError, PublishError, PurgeError, TransactionRejected};
pub use index::IndexChain;
pub use manifest::{
    CompactionResult, Cursor, FIRST_SEQ, GenerationEnd, IndexTotals, LeaseHolder, LogClaim, MAX_TOMBSTONES, Manifest,
    ManifestPin, ObjectTombstone, PublishRequest, RecordCounts, SegmentMeta, SidecarMeta,
};
pub use names::{Generation, InvalidGeneration, InvalidObjectName, ObjectKind, ObjectName};
pub use purge::{IndexPurge, PurgeStats, PurgeTarget};
pub use root::{
    FeedConsumer, IndexOwner, IndexRegistration, LogCleaner, LogId, ParameterSet, ProbeRecord, PurgedIndex,
    RegistrationOutcome, RootState,
};
pub use root_chain::RootChain;
pub use writer::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, StandbyReason, WriterIdentity, WriterLease, heartbeat};
