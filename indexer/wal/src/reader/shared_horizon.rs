//! The horizon of a reader, which its clones share.

use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_store::StoreSecond;

/// Every second below it is frozen, as [`LogReader::seal`](super::LogReader::seal) set it; none before that.
#[derive(Debug, Default)]
pub(super) struct SharedHorizon(AtomicU64);

impl SharedHorizon {
    pub(super) fn second(&self) -> StoreSecond {
        StoreSecond::from_unix(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn raise(&self, horizon: StoreSecond) {
        self.0.fetch_max(horizon.unix(), Ordering::Relaxed);
    }
}
