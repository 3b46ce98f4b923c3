#![doc = include_str!("../README.md")]

mod chain;
mod clock;
mod entropy;
pub mod planted;
mod probe;
mod sign;
mod store;
mod time;

pub use chain::{
    BOUNDARY_CHECK_INTERVAL, Chain, ChainError, ChainObjectName, ChainRecord, ChainState, InvariantViolation,
};
pub use clock::{Clock, ClockError, ClockReading, MAX_ESTIMATE_AGE};
pub use entropy::Entropy;
pub use probe::{ProbeCheck, ProbeReport, ProbeVerdict, probe_store};
pub use sign::{SignedPut, SignedPutResponse, UrlSigner, put_signed};
pub use store::{
    Create, ObjectInfo, RequestCounter, Store, StoreAccess, StoreEnvironment, StoreError, StoreSettings, StoredObject,
    UserMetadata,
};
pub use time::StoreSecond;
