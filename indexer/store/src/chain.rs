#![doc = include_str!("chain/README.md")]

mod error;
mod extensions;
mod inspect;
mod names;
mod protocol;
mod record;
mod state;
#[cfg(test)]
mod testing;
mod trim;

pub use error::ChainError;
pub use extensions::StateExtensions;
pub use inspect::ChainInspection;
pub use names::ChainObjectName;
pub use protocol::{AppendOnlyChain, BOUNDARY_CHECK_INTERVAL, ChainRecord};
pub use state::{ChainState, InvariantViolation, RecordVersions};
pub use trim::RECORD_RETENTION;
