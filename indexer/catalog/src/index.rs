//! The chain of one generation of an index.

use tidemark_wal::{Entropy, Store};

use crate::{Chain, ChainError, Closed, Generation, Manifest, Refused, Slot};

/// How many generations a search for the open one goes through.
const GENERATIONS: usize = 1000;

/// The manifests of one generation of an index, below `<index>/<generation>/manifest/`.
#[derive(Clone)]
pub struct IndexChain {
    index: Store,
    entropy: Entropy,
    chain: Chain<Manifest>,
    generation: Generation,
}

impl IndexChain {
    /// The chain of `generation`, given the store of the whole index. Touches nothing.
    pub fn open(index: &Store, generation: Generation, entropy: Entropy) -> Self {
        let store = index.below(&format!("{generation}/manifest"));
        Self { index: index.clone(), chain: Chain::new(store, entropy.clone()), entropy, generation }
    }

    /// The chain of the open generation: the one found by following the closing records from this one on. After one that
    /// was purged comes the one of the next number.
    pub async fn follow(self) -> Result<Self, ChainError> {
        self.walk(|generation| generation.next().ok_or(Refused::Purged { generation })).await
    }

    /// As [`Self::follow`], but a generation that was purged is the end.
    pub(crate) async fn last(self) -> Result<Self, ChainError> {
        self.walk(Ok).await
    }

    /// Follows the closing records; `after_purge` says what comes after a generation that was purged.
    async fn walk(self, after_purge: impl Fn(Generation) -> Result<Generation, Refused>) -> Result<Self, ChainError> {
        let mut chain = self;
        for _ in 0..GENERATIONS {
            let successor = match chain.latest().await?.and_then(|slot| slot.state.closed) {
                None => return Ok(chain),
                Some(Closed::Successor(successor)) => successor,
                Some(Closed::Purged) => after_purge(chain.generation.clone())?,
            };
            if successor == chain.generation {
                return Ok(chain);
            }
            chain = Self::open(&chain.index, successor, chain.entropy.clone());
        }
        Err(ChainError::Corrupt {
            key: chain.chain.store().url().to_string(),
            why: format!("more than {GENERATIONS} generations follow each other"),
        })
    }

    /// The generation.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The store of the whole index: what the keys in a manifest are relative to.
    pub fn index(&self) -> &Store {
        &self.index
    }

    /// The chain itself.
    pub fn chain(&self) -> &Chain<Manifest> {
        &self.chain
    }

    pub(crate) fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    /// The latest manifest; `None` before the first writer. See [`Chain::latest`].
    pub async fn latest(&self) -> Result<Option<Slot<Manifest>>, ChainError> {
        self.chain.latest().await
    }

    /// The manifest after `slot`. See [`Chain::after`].
    pub async fn after(&self, slot: &Slot<Manifest>) -> Result<Option<Slot<Manifest>>, ChainError> {
        self.chain.after(slot).await
    }

    /// The latest manifest if it is a later one than `slot`; cheap while nothing is new. See [`Chain::glance`].
    pub async fn poll(&self, slot: &Slot<Manifest>) -> Result<Option<Slot<Manifest>>, ChainError> {
        self.chain.glance(slot).await
    }

    /// Pins the latest manifest under `name`, for `owner`. Anybody may.
    pub async fn pin(&self, name: &str, owner: &str) -> Result<Slot<Manifest>, ChainError> {
        self.step(|state| state.pin(name, owner)).await
    }

    /// Pins once more what the living pin `source` holds.
    pub async fn pin_again(&self, source: &str, name: &str, owner: &str) -> Result<Slot<Manifest>, ChainError> {
        self.step(|state| state.pin_again(source, name, owner)).await
    }

    /// Drops the pin `name`, which `owner` made.
    pub async fn unpin(&self, name: &str, owner: &str) -> Result<Slot<Manifest>, ChainError> {
        self.step(|state| state.unpin(name, owner)).await
    }

    async fn step(
        &self,
        transaction: impl Fn(&Manifest) -> Result<Manifest, Refused> + Send + Sync,
    ) -> Result<Slot<Manifest>, ChainError> {
        self.chain.append(None, |state| transaction(state.ok_or(Refused::Empty)?).map(Some)).await
    }
}
