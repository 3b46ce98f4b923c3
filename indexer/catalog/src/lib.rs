#![doc = include_str!("../README.md")]

mod digest;
mod error;
mod garbage_collector;
mod garbage_list;
mod garbage_plan;
mod garbage_roots;
mod garbage_state;
mod generation_switch;
mod identity;
mod index_chain;
mod list_header;
mod log_cursor;
mod manifest;
mod mutants;
mod names;
mod pins;
mod purge;
mod root;
mod root_chain;
mod takeover;
mod writer_lease;

pub use digest::{BodyDigest, SetDigest, SetElement};
pub use error::{AcquireError, CatalogError, PublishError, PurgeError, TransactionRejected};
pub use garbage_collector::{GarbageCollector, GarbageReport};
pub use garbage_list::{GarbageList, MAX_LIST_CANDIDATES};
pub use garbage_roots::GARBAGE_GRACE;
pub use garbage_state::{GarbageState, MAX_GARBAGE_CANDIDATES, MAX_GARBAGE_LISTS};
pub use generation_switch::{GenerationSwitch, SwitchError};
pub use identity::{IndexOwner, LogClaim, LogId, LogIdentity, WriterIdentity};
pub use index_chain::IndexChain;
pub use log_cursor::LogCursor;
pub use manifest::{
    CompactionResult, CopyRequest, EndReason, FIRST_SEQ, GenerationEnd, IndexTotals, LeaseHolder, Manifest,
    PublishRequest, RecordCounts, SegmentMeta, SidecarMeta,
};
#[cfg(feature = "mutants")]
pub use mutants::MUTANT_HOOKS;
pub use names::{Generation, InvalidGeneration, InvalidObjectName, ObjectKind, ObjectName};
pub use pins::{IndexPin, PinChain, PinRegister};
pub use purge::{IndexPurge, PurgeStats, PurgeTarget};
pub use root::{
    IndexRegistration, LogCleaner, LogFloor, ParameterSet, ProbeRecord, PurgedIndex, RegistrationOutcome, RootState,
};
pub use root_chain::RootChain;
pub use takeover::StandbyReason;
pub use writer_lease::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, WriterLease, heartbeat};
