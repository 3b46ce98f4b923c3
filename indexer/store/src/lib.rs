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
pub use clock::{Clock, ClockError, ESTIMATE_LIFE, Reading};
pub use entropy::Entropy;
pub use probe::{ProbeLine, ProbeReport, Verdict, probe};
pub use sign::{SignedAnswer, SignedPut, Signer, put_signed};
pub use store::{
    Access, Create, Environment, Metadata, Object, ObjectInfo, Requests, Store, StoreError, StoreSettings,
};
pub use time::Second;
