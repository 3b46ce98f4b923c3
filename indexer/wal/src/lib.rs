#![doc = include_str!("../README.md")]

mod entropy;
mod outcome;
mod parameters;
pub mod planted;
mod store;
mod time;
mod token;

pub use entropy::Entropy;
pub use outcome::{Decision, Evidence, Outcome, Sighting};
pub use parameters::{CHANGE_DELAY, Dated, Parameters, Schedule, TRUST};
pub use store::{Create, Metadata, Object, ObjectInfo, Store, StoreError};
pub use time::Second;
pub use token::{NotAToken, Token};
