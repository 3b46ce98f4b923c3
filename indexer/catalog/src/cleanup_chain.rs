//! The clean-ups of a log: what is about to be deleted is recorded here first.

use tidemark_store::{AppendOnlyChain, ChainRecord, Entropy, Store};

use crate::{
    cleanup_state::{CleanupPlan, CleanupState},
    error::{CatalogError, TransactionRejected},
    identity::LogId,
};

/// The folder of all logs' clean-ups, below the index's URL.
const CLEANUP_FOLDER: &str = "cleanup";

/// The clean-ups of one log, on behalf of one index. Cheap to clone.
#[derive(Clone)]
pub struct CleanupChain {
    log: LogId,
    chain: AppendOnlyChain<CleanupState>,
}

impl CleanupChain {
    /// The clean-ups of the log `log` in the store of an index. Touches nothing.
    pub fn open(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let chain = AppendOnlyChain::new(index.below(&format!("{CLEANUP_FOLDER}/{log}")), entropy);
        Self { log: log.clone(), chain }
    }

    /// The chain itself.
    pub fn chain(&self) -> &AppendOnlyChain<CleanupState> {
        &self.chain
    }

    /// The next clean-up, by `cleaner`: its plan is recorded, and every earlier clean-up is fenced. After [`CatalogError::Unknown`] the
    /// process has to end.
    pub async fn begin(&self, cleaner: &str, plan: &CleanupPlan) -> Result<ChainRecord<CleanupState>, CatalogError> {
        self.step(|state| Ok(Some(state.begin(cleaner, plan)))).await
    }

    /// Refused if another clean-up has begun since `begun`.
    pub async fn require_own(&self, begun: &ChainRecord<CleanupState>) -> Result<(), CatalogError> {
        let epoch = begun.state.epoch;
        match self.chain.latest_after(begun).await? {
            Some(newer) if newer.state.epoch != epoch => {
                Err(TransactionRejected::Fenced { epoch, by: newer.state.epoch }.into())
            }
            _ => Ok(()),
        }
    }

    /// What the clean-up `begun` had planned is through.
    pub async fn end(&self, begun: &ChainRecord<CleanupState>) -> Result<(), CatalogError> {
        self.step(|state| state.end(begun.state.epoch)).await.map(drop)
    }

    async fn step(
        &self,
        transaction: impl Fn(&CleanupState) -> Result<Option<CleanupState>, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<CleanupState>, CatalogError> {
        let first = CleanupState::new(self.log.clone());
        let step = |state: Option<&CleanupState>| {
            let state = state.unwrap_or(&first);
            TransactionRejected::unless_same_log(CLEANUP_FOLDER, &self.log, &state.log)?;
            transaction(state)
        };
        self.chain.append(None, step).await
    }
}
