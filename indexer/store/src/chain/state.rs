//! What a chain asks of the state that its records hold.

use serde::{Serialize, de::DeserializeOwned};

use crate::time::StoreSecond;

/// What the records of a chain hold.
pub trait ChainState: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Why a transaction on this state does not apply.
    type Rejection: std::error::Error + Send + Sync + 'static;

    /// The version of the state's format. Records of a higher one are refused; lower ones must stay readable.
    const FORMAT: u32;

    /// Dates everything that the state's own record introduced by that record's store time.
    ///
    /// A record cannot bear its own store time. What it introduces stays undated in its bytes, is dated by each reader,
    /// and is dated in the bytes of every later record, since those are made from the state as it was read.
    fn apply_store_time(&mut self, recorded: StoreSecond);

    /// Checks what must hold of every state.
    fn check_state(&self) -> Result<(), InvariantViolation>;

    /// Checks what must hold of the step from the state `before` to this one.
    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation>;
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant violated, {invariant}: {found}; nothing was written; this is a bug, please report it")]
pub struct InvariantViolation {
    /// What must hold.
    pub invariant: &'static str,
    /// What was found instead.
    pub found: String,
}

impl InvariantViolation {
    /// `Ok` if the invariant holds; else the violation that `found` describes.
    pub fn unless(holds: bool, invariant: &'static str, found: impl FnOnce() -> String) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { invariant, found: found() }) }
    }
}
