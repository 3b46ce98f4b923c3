//! The chain of one generation of an index.

use tidemark_store::{Entropy, Store};

use crate::{Chain, ChainError, Closed, Generation, Manifest, Refused, RootChain, Slot};

/// How many generations a search for the open one goes through.
const GENERATIONS: usize = 1000;

/// The manifests of one generation of an index, below `<index>/<generation>/manifest/`.
#[derive(Clone)]
pub struct IndexChain {
    index: Store,
    /// The root of the log whose records it holds.
    root: Option<RootChain>,
    entropy: Entropy,
    chain: Chain<Manifest>,
    generation: Generation,
}

impl IndexChain {
    /// The chain of `generation`, given the store of the whole index. Touches nothing.
    pub fn open(index: &Store, generation: Generation, entropy: Entropy) -> Self {
        let store = index.below(&format!("{generation}/manifest"));
        Self { index: index.clone(), root: None, chain: Chain::new(store, entropy.clone()), entropy, generation }
    }

    /// The same chain on behalf of the log with this `root`: manifests that do not hold the records of that log are refused,
    /// except those of a purged generation, and a writer claims the generation for it. The index must be registered in
    /// `root` under its URL before anybody writes.
    #[must_use]
    pub fn of_log(self, root: &RootChain) -> Self {
        Self { root: Some(root.clone()), ..self }
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
            chain = Self { root: chain.root, ..Self::open(&chain.index, successor, chain.entropy) };
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
        self.admit(self.chain.latest().await?).await
    }

    /// The manifest after `slot`. See [`Chain::after`].
    pub async fn after(&self, slot: &Slot<Manifest>) -> Result<Option<Slot<Manifest>>, ChainError> {
        self.admit(self.chain.after(slot).await?).await
    }

    /// The latest manifest if it is a later one than `slot`; cheap while nothing is new. See [`Chain::glance`].
    pub async fn poll(&self, slot: &Slot<Manifest>) -> Result<Option<Slot<Manifest>>, ChainError> {
        self.admit(self.chain.glance(slot).await?).await
    }

    /// What was read, if it holds the records of the right log.
    async fn admit(&self, slot: Option<Slot<Manifest>>) -> Result<Option<Slot<Manifest>>, ChainError> {
        if let (Some(root), Some(slot)) = (&self.root, &slot)
            && !slot.state.is_purged()
        {
            slot.state.of_log(self.index.url().as_str(), Box::pin(root.id()).await?.as_ref())?;
        }
        Ok(slot)
    }

    /// What a writer makes of the manifest that it takes over.
    pub(crate) async fn claims(
        &self,
    ) -> Result<impl Fn(Manifest) -> Result<Manifest, Refused> + Send + Sync, ChainError> {
        let url = self.index.url().to_string();
        let claim = match &self.root {
            Some(root) => Some(Box::pin(root.claim(&url)).await?),
            None => None,
        };
        Ok(move |manifest: Manifest| match &claim {
            Some(claim) => manifest.claimed(&url, claim),
            None => Ok(manifest),
        })
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
