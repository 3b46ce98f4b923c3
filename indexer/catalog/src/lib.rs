#![doc = include_str!("../README.md")]

mod chain;
mod digest;
mod error;
mod index;
mod manifest;
mod names;
mod purge;
mod record;
mod root;
mod root_chain;
mod writer;

pub use chain::{Chain, GLANCE, Slot, State};
pub use digest::SetDigest;
pub use error::{AcquireError, Broken, ChainError, PublishError, PurgeError, Refused};
pub use index::IndexChain;
pub use manifest::{
    Claim, Closed, Compaction, Counts, Cursor, FIRST_SEQ, Holder, Manifest, Pin, Publication, Segment, Sidecar,
    TOMBSTONES, Tombstone, Totals,
};
pub use names::{Generation, NotAGeneration, NotAnObjectName, ObjectKind, ObjectName};
pub use purge::{Purge, Purgeable, Swept};
pub use root::{Cleaner, Consumer, LogId, Owner, ParameterSet, ProbeRecord, Purged, Registered, Registration, Root};
pub use root_chain::RootChain;
pub use writer::{HEARTBEAT, Identity, SILENCE, Waiting, Writership, heartbeat};
