#![doc = include_str!("../README.md")]

mod cleanup_chain;
mod cleanup_state;
mod collector_state;
mod consumer_chain;
mod consumer_state;
mod copy_collector;
mod digest;
mod error;
mod garbage_collector;
mod garbage_grace;
mod garbage_list;
mod garbage_survey;
mod generation_switch;
mod identity;
mod index_chain;
mod list_header;
mod log_cursor;
mod manifest;
mod mutants;
mod names;
mod pin_list;
mod pin_register;
mod pinned_objects;
mod pins;
mod purge;
mod referenced_objects;
mod root;
mod root_chain;
mod snapshot_name;
mod snapshot_proof;
mod snapshot_retention;
mod takeover;
mod writer_lease;

pub use cleanup_chain::CleanupChain;
pub use cleanup_state::{CleanupPlan, CleanupState};
pub use collector_state::{CollectorState, MAX_GARBAGE_CANDIDATES, MAX_GARBAGE_LISTS};
pub use consumer_chain::{ConsumerChain, ConsumerLease, ConsumerStandby, clean_heartbeats};
pub use consumer_state::{ConsumerName, ConsumerPosition, ConsumerProgress, ConsumerState, InvalidConsumerName};
pub use copy_collector::{CopyCollector, CopyGarbage};
pub use digest::{BodyDigest, SetDigest, SetElement};
pub use error::{AcquireError, CatalogError, PublishError, PurgeError, TransactionRejected};
pub use garbage_collector::{GarbageCollector, GarbageReport};
pub use garbage_grace::GARBAGE_GRACE;
pub use garbage_list::{GarbageList, MAX_LIST_CANDIDATES};
pub use garbage_survey::{GarbageCounts, GarbageSurvey};
pub use generation_switch::{GenerationSwitch, ReplacedGenerations, SwitchError};
pub use identity::{IndexId, IndexOwner, LogClaim, LogId, LogIdentity, WriterIdentity};
pub use index_chain::IndexChain;
pub use log_cursor::LogCursor;
pub use manifest::{
    CompactionResult, CopyRequest, EndReason, FIRST_SEQ, GenerationEnd, IndexTotals, LeaseHolder, Manifest,
    PublishRequest, RecordCounts, SegmentMeta, SidecarMeta,
};
#[cfg(feature = "mutants")]
pub use mutants::MUTANT_HOOKS;
pub use names::{Generation, InvalidGeneration, InvalidObjectName, ObjectKind, ObjectName};
pub use pin_register::{IndexPin, PinRegister, SNAPSHOT_OWNER};
pub use pins::PinChain;
pub use purge::{IndexPurge, PurgeStats, PurgeTarget};
pub use root::{
    IndexRegistration, LogCleaner, LogFloor, ParameterSet, ProbeRecord, PurgedIndex, RegistrationOutcome, RootState,
};
pub use root_chain::RootChain;
pub use snapshot_name::{InvalidSnapshotName, SnapshotName};
pub use snapshot_proof::{ArchiveExtent, SnapshotProof};
pub use snapshot_retention::SnapshotRetention;
pub use takeover::StandbyReason;
pub use writer_lease::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, WriterLease, heartbeat};
