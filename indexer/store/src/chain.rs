#![doc = include_str!("chain/README.md")]

mod error;
mod names;
mod protocol;
mod record;
mod state;
#[cfg(test)]
mod testing;

pub use error::ChainError;
pub use names::ChainObjectName;
pub use protocol::{BOUNDARY_CHECK_INTERVAL, Chain, ChainRecord};
pub use state::{ChainState, InvariantViolation};
