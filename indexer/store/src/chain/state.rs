//! What a chain asks of the state that its records hold.

use serde::{Serialize, de::DeserializeOwned};

use super::extensions::StateExtensions;
use crate::time::StoreSecond;

/// Which programs a record concerns. A program has one version a kind of chain: its [`ChainState::FORMAT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordVersions {
    /// The version of the state's format.
    pub format: u32,
    /// The least version of a program that may read it: what it needs to know is in the record.
    pub reads: u32,
    /// The least version of a program that may append after it: what it does not know, it may leave as it is.
    pub writes: u32,
}

impl RecordVersions {
    /// Of a state that the first version of all programs reads and continues.
    pub const FIRST: Self = Self { format: 1, reads: 1, writes: 1 };
}

/// What the records of a chain hold.
pub trait ChainState: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Why a transaction on this state does not apply.
    type Rejection: std::error::Error + Send + Sync + 'static;

    /// The version of this program: the highest format that it writes. It reads all lower ones too.
    const FORMAT: u32;

    /// The lowest versions that can express this state: what it is written as. All states of a kind whose [`Self::FORMAT`] is 1 are
    /// of the first version; a kind with a later one says which of its states need that.
    fn versions(&self) -> RecordVersions {
        const { assert!(Self::FORMAT == 1, "a later format says which states need it") };
        RecordVersions::FIRST
    }

    /// What later versions have added, which this one keeps as it is.
    fn extensions(&self) -> &StateExtensions;

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
