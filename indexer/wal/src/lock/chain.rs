//! The chain of one lock: `<log>/.tidemark/locks/{name}/`.

#[cfg(test)]
use tidemark_store::StoreSecond;
use tidemark_store::{AppendOnlyChain, ChainError, ChainRecord, Entropy, Store};

use super::{
    error::LockRejected,
    name::LockName,
    state::{CommitSpan, GrantRequest, LockState},
};
use crate::token::Token;

/// The folder of all locks of a log.
pub(super) const LOCK_FOLDER: &str = ".tidemark/locks";

/// A slot of a lock's chain.
pub(crate) type LockSlot = ChainRecord<LockState>;
/// A failure of a lock's chain.
pub(crate) type LockChainError = ChainError<LockRejected>;

/// The chain of one lock. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LockChain {
    name: LockName,
    chain: AppendOnlyChain<LockState>,
}

impl LockChain {
    /// The chain of `name` in the log's own store. Touches nothing.
    pub(crate) fn open(log: &Store, name: &LockName, entropy: &Entropy) -> Self {
        let store = log.below(&format!("{LOCK_FOLDER}/{name}"));
        Self { name: name.clone(), chain: AppendOnlyChain::new(store, entropy.clone()) }
    }

    /// The newest slot; `None` if the lock was never acquired.
    pub(crate) async fn latest(&self) -> Result<Option<LockSlot>, LockChainError> {
        self.chain.latest().await
    }

    /// The slot `number`; `None` if it was trimmed.
    pub(crate) async fn read(&self, number: u64) -> Result<Option<LockSlot>, LockChainError> {
        self.chain.read(number).await
    }

    /// As [`Self::latest`] for a caller that has `slot` and polls: a slot up to a minute old may be taken for the newest.
    pub(crate) async fn poll(&self, slot: LockSlot) -> Result<LockSlot, LockChainError> {
        Ok(self.chain.poll_newer(&slot).await?.unwrap_or(slot))
    }

    /// Grants the lock, which nobody holds, or whose grant was seen to be expired at the slot `judged`.
    pub(crate) async fn grant(
        &self,
        base: Option<LockSlot>,
        request: &GrantRequest,
        judged: Option<u64>,
    ) -> Result<LockSlot, LockChainError> {
        self.chain.append(base, |state| LockState::grant(state, &self.name, request, judged).map(Some)).await
    }

    /// Releases `grant`, unless it was.
    pub(crate) async fn release(&self, grant: u64) -> Result<LockSlot, LockChainError> {
        self.chain.append(None, |state| state.ok_or_else(|| self.no_such(grant))?.release(grant)).await
    }

    /// Appends the guarded commit of `token` under `grant`; the state of the slot says whether it counts.
    pub(crate) async fn commit(
        &self,
        base: LockSlot,
        token: Token,
        grant: u64,
        span: CommitSpan,
    ) -> Result<LockSlot, LockChainError> {
        let commit =
            |state: Option<&LockState>| state.ok_or_else(|| self.no_such(grant))?.commit(token, grant, span).map(Some);
        self.chain.append(Some(base), commit).await
    }

    /// Trims all slots but the newest.
    #[cfg(test)]
    pub(crate) async fn trim_all(&self) {
        let latest = self.latest().await.unwrap().unwrap();
        self.chain.trim(&latest, StoreSecond::KSUID_END).await.unwrap();
    }

    fn no_such(&self, grant: u64) -> LockRejected {
        LockRejected::NoSuchGrant { lock: self.name.clone(), grant }
    }
}
