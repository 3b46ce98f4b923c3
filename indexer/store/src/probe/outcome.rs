//! The result of a check.

use crate::errors::StoreError;

/// The result of one check.
pub(super) type CheckResult = Result<CheckSuccess, CheckFailure>;

/// The store keeps the promise, or never made it.
pub(super) enum CheckSuccess {
    Kept(String),
    NotPromised(String),
}

/// The store breaks the promise, or did not answer.
pub(super) enum CheckFailure {
    BrokenPromise(String),
    Store(StoreError),
}

impl From<StoreError> for CheckFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
