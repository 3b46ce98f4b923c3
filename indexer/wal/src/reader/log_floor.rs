//! The floor of a log, for decisions about entries that a clean-up may have come past.

use std::fmt;

use async_trait::async_trait;
use tidemark_store::{StoreError, StoreSecond};

/// Reads the floor of a log: what lies below it may be gone.
///
/// A clean-up publishes the floor before it deletes. So where the log is listed first and the floor is read afterwards, everything from
/// that floor on was there when it was listed.
#[async_trait]
pub trait LogFloorSource: fmt::Debug + Send + Sync {
    /// The floor as it is now: the first second of which nothing was deleted.
    async fn floor(&self) -> Result<StoreSecond, StoreError>;
}
