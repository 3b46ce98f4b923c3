//! The horizon: every second below it is sealed, so that no entry that counts can still appear in it. Here it is found, by a probe;
//! the formula is [`ParameterSchedule::horizon`].

use tidemark_catalog::{CatalogError, LogCursor, RootChain, TransactionRejected};
use tidemark_store::{StoreClock, StoreSecond};
use tidemark_wal::ParameterSchedule;

use crate::{error::IngestError, mutants};

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
    /// certain for all of them. An index whose `cursor` lies below the log floor is refused: what it has not read may be gone.
    pub(crate) async fn compute(clock: &StoreClock, root: &RootChain, cursor: LogCursor) -> Result<Self, IngestError> {
        let now = clock.probe().await?.now;
        let root = root.state().await?;
        mutants::checked_floor(root.check_floor(cursor)).map_err(CatalogError::Rejected)?;
        let schedule = root.schedule().ok_or(CatalogError::Rejected(TransactionRejected::NoParameters))?;
        Ok(Self { horizon: schedule.horizon(now), schedule })
    }
}
