#![doc = include_str!("../README.md")]

mod append;
mod datamon;
mod log;
mod outcome;
mod parameters;
mod payload;
mod reader;
#[cfg(test)]
mod testing;
mod token;
mod yaml;

pub use append::{
    AppendError, Batcher, Begun, Draft, DraftOp, FlushPolicy, Marker, ParameterSource, Receipt, SourceError, Upload,
    Writer, WriterOptions, marker_key,
};
pub use datamon::{Contributor, Descriptor, Place, entity, place, read_descriptor};
pub use log::Log;
pub use outcome::{Decision, Evidence, Outcome, Sighting, judge};
pub use parameters::{CHANGE_DELAY, Dated, Parameters, Schedule, TRUST};
pub use payload::{Form, INTENT_VERSION, Intent, Kind, LockRef, MAX_OPERATIONS, Malformed, NotAKind, Operation, parse};
pub use reader::{Limits, Listed, Reader, Resolved, ResolvedOp};
pub use token::{NotAToken, Token};
