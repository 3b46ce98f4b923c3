//! The horizon: every second below it is sealed, so that no entry that counts can still appear in it.

use tidemark_catalog::{CatalogError, RootChain, TransactionRejected};
use tidemark_store::{Clock, StoreSecond};
use tidemark_wal::ParameterSchedule;

use crate::error::IngestError;

/// A horizon with the parameters that it was computed from.
#[derive(Clone, Debug)]
pub(crate) struct SealedHorizon {
    pub(crate) horizon: StoreSecond,
    pub(crate) schedule: ParameterSchedule,
}

impl SealedHorizon {
    /// Probes the clock, then reads the parameters, and computes `H` from both.
    ///
    /// The order matters: every second below `H` lies before the probe, so parameters that are read after the probe are
    /// certain for all of them.
    pub(crate) async fn compute(clock: &Clock, root: &RootChain) -> Result<Self, IngestError> {
        let now = clock.probe().await?.now;
        let schedule = root.parameters().await?.ok_or(CatalogError::Rejected(TransactionRejected::NoParameters))?;
        Ok(Self { horizon: schedule.horizon(now), schedule })
    }
}
