//! Write locks: zero or one holder, and a holder that was overtaken without knowing commits nothing.

mod chain;
mod client;
mod error;
mod guard;
#[cfg(test)]
mod history_tests;
mod limits;
mod name;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use chain::{LockChain, LockSlot};
pub use client::{HeldLock, LockDescription, WriteLocks};
pub use error::{LockError, LockRejected};
pub(crate) use guard::CommitGuard;
pub use guard::{GUARD_FOLDER, guard_key, guarded_token};
pub use limits::InvalidGrant;
pub use name::{InvalidLockName, LockName};
pub(crate) use state::CommitSpan;
pub use state::{FencedCommit, GrantRequest, GuardedCommit, LockEvent, LockGrant, LockState};
