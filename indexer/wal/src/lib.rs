#![doc = include_str!("../README.md")]

mod append;
mod clock;
mod datamon;
mod entropy;
mod log;
mod outcome;
mod parameters;
mod payload;
pub mod planted;
mod probe;
mod reader;
mod sign;
mod store;
#[cfg(test)]
mod testing;
mod time;
mod token;
mod yaml;

pub use append::{
    AppendError, Batcher, Begun, Draft, DraftOp, FlushPolicy, Marker, ParameterSource, Receipt, SourceError, Upload,
    Writer, WriterOptions, marker_key,
};
pub use clock::{Clock, ClockError, ESTIMATE_LIFE, Reading};
pub use datamon::{Contributor, Descriptor, Place, entity, place, read_descriptor};
pub use entropy::Entropy;
pub use log::Log;
pub use outcome::{Decision, Evidence, Outcome, Sighting, judge};
pub use parameters::{CHANGE_DELAY, Dated, Parameters, Schedule, TRUST};
pub use payload::{Form, INTENT_VERSION, Intent, Kind, LockRef, MAX_OPERATIONS, Malformed, NotAKind, Operation, parse};
pub use probe::{ProbeLine, ProbeReport, Verdict, probe};
pub use reader::{Limits, Listed, Reader, Resolved, ResolvedOp};
pub use sign::{SignedAnswer, SignedPut, Signer, put_signed};
pub use store::{
    Access, Create, Environment, Metadata, Object, ObjectInfo, Requests, Store, StoreError, StoreSettings,
};
pub use time::Second;
pub use token::{NotAToken, Token};
