//! The chain of one generation of an index.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use tidemark_store::{AppendOnlyChain, ChainRecord, Entropy, Store, StoreError, last_present};

use crate::{
    error::{CatalogError, TransactionRejected},
    manifest::{EndReason, GenerationEnd, Manifest},
    mutants,
    names::Generation,
    root_chain::RootChain,
};

/// Every name of a generation follows this one.
const BEFORE_GENERATIONS: &str = "g0";
/// Every name of a generation precedes this one: ":" follows "9".
const BEHIND_GENERATIONS: &str = "g:";

/// The manifests of one generation of an index, below `<index>/<generation>/manifest/`.
#[derive(Clone)]
pub struct IndexChain {
    index: Store,
    /// The root of the log whose records it holds.
    root: Option<RootChain>,
    entropy: Entropy,
    chain: AppendOnlyChain<Manifest>,
    generation: Generation,
    /// Whether the closing record of an earlier generation names this one.
    is_successor: bool,
}

/// What earlier generations say of one that is being built.
enum BuildStanding {
    /// The closing record of one names it: it is the index.
    Named,
    /// None names it.
    Unnamed,
    /// The index was purged before it: nothing can name it any more.
    AfterPurge,
}

impl IndexChain {
    /// The chain of `generation`, given the store of the whole index. Touches nothing.
    pub fn open(index: &Store, generation: Generation, entropy: Entropy) -> Self {
        let store = index.below(&format!("{generation}/manifest"));
        Self {
            index: index.clone(),
            root: None,
            chain: AppendOnlyChain::new(store, entropy.clone()),
            entropy,
            generation,
            is_successor: false,
        }
    }

    /// The same chain on behalf of the log with this `root`: manifests that do not hold the records of that log are refused,
    /// except those of a purged generation, and a writer claims the generation for it. The index must be registered in
    /// `root` under its URL before the first write.
    #[must_use]
    pub fn for_log(self, root: &RootChain) -> Self {
        Self { root: Some(root.clone()), ..self }
    }

    /// The chain of another generation of the same index, on behalf of the same log. Touches nothing.
    #[must_use]
    pub fn sibling(&self, generation: Generation) -> Self {
        Self { root: self.root.clone(), ..Self::open(&self.index, generation, self.entropy.clone()) }
    }

    /// The chain of the open generation: the one found by following the closing records from this one on. After one that
    /// was purged or given up comes the one of the next number, and so after one that is being built and that no closing record
    /// names. Refused if this one is being built.
    pub async fn follow(self) -> Result<Self, CatalogError> {
        self.walk(true).await
    }

    /// As [`Self::follow`], but a generation that was purged is the end.
    pub(crate) async fn follow_to_last(self) -> Result<Self, CatalogError> {
        self.walk(false).await
    }

    /// Whether the closing record of an earlier generation names this one, which is being built. Those between were given up, or
    /// never finished.
    async fn build_standing(&self) -> Result<BuildStanding, CatalogError> {
        for number in (1..self.generation.number()).rev() {
            let earlier = Self::open(&self.index, Generation::numbered(number), self.entropy.clone());
            match earlier.latest().await?.and_then(|latest| latest.state.closed) {
                Some(GenerationEnd { generation: Some(named), .. }) if named == self.generation => {
                    return Ok(BuildStanding::Named);
                }
                Some(GenerationEnd { generation: Some(_), .. }) => return Ok(BuildStanding::Unnamed),
                Some(GenerationEnd { by: EndReason::Purge, .. }) => return Ok(BuildStanding::AfterPurge),
                _ => {}
            }
        }
        Ok(BuildStanding::Unnamed)
    }

    /// Follows the closing records, and where `past_ends` is set also what comes after a generation without a successor.
    async fn walk(self, past_ends: bool) -> Result<Self, CatalogError> {
        let first = self.generation.clone();
        let mut chain = self;
        loop {
            let latest = chain.latest().await?.map(|slot| slot.state);
            let generation = chain.generation.clone();
            let is_purged = latest.as_ref().is_some_and(Manifest::is_purged);
            let successor = match latest.map(|manifest| (manifest.closed, manifest.building)) {
                None | Some((None, None)) => return Ok(chain),
                Some((None, Some(task))) => match chain.build_standing().await? {
                    BuildStanding::Named if mutants::opens_unfinished() => {
                        return Ok(Self { is_successor: true, ..chain });
                    }
                    BuildStanding::Named | BuildStanding::Unnamed if generation == first => {
                        return Err(TransactionRejected::Building { generation, task }.into());
                    }
                    _ => None,
                },
                Some((Some(closed), _)) => closed.generation,
            };
            let successor = match successor {
                Some(successor) => Some(successor),
                None if !past_ends => return Ok(chain),
                // A prefix that is purged again and again has thousands of them.
                None if is_purged => chain.last_purged().await?.next(),
                None => generation.next(),
            };
            let successor = successor.ok_or(TransactionRejected::Purged { generation })?;
            if successor <= chain.generation {
                let key = chain.chain.store().url().to_string();
                return Err(CatalogError::Corrupt { key, why: format!("it is closed in favour of \"{successor}\"") });
            }
            chain = Self { root: chain.root, ..Self::open(&chain.index, successor, chain.entropy) };
        }
    }

    /// The last generation that was purged, given that this one was: none before it is ever opened again. Generations follow each
    /// other without a gap, since each keeps its last record.
    async fn last_purged(&self) -> Result<Generation, CatalogError> {
        let present = |number| async move { Self::has_records(&self.index, &Generation::numbered(number)).await };
        let last = last_present(self.generation.number(), present).await?;
        for number in (self.generation.number() + 1..=last).rev() {
            let generation = Generation::numbered(number);
            let latest = Self::open(&self.index, generation.clone(), self.entropy.clone()).latest().await?;
            if latest.is_some_and(|latest| latest.state.is_purged()) {
                return Ok(generation);
            }
        }
        Ok(self.generation.clone())
    }

    /// Whether `generation` of an index has ever had a manifest.
    pub async fn has_records(index: &Store, generation: &Generation) -> Result<bool, StoreError> {
        Ok(index.list(&format!("{generation}/manifest"), None).try_next().await?.is_some())
    }

    /// The generations after the first `passed` ones that have ever had a manifest. Some may be lacking: an index that was lost is made again
    /// as a later generation than those that are gone.
    pub(crate) async fn generations_after(index: &Store, passed: u64) -> Result<BTreeSet<Generation>, StoreError> {
        let mut generations = BTreeSet::new();
        let mut objects = index.list("", Some(BEFORE_GENERATIONS));
        while let Some(object) = objects.try_next().await? {
            if object.key.as_str() > BEHIND_GENERATIONS {
                break;
            }
            let Some((folder, _)) = object.key.split_once('/') else { continue };
            // Of each folder one object alone: there may be many.
            if let Ok(generation) = folder.parse::<Generation>()
                && generation.number() > passed
                && Self::has_records(index, &generation).await?
            {
                generations.insert(generation);
            }
            // Behind every key of the folder: "0" follows "/".
            objects = index.list("", Some(&format!("{folder}0")));
        }
        Ok(generations)
    }

    /// Whether it was opened as the one that the closing record of an earlier generation names, while it said that it is being built.
    pub(crate) fn is_successor(&self) -> bool {
        self.is_successor
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
    pub fn chain(&self) -> &AppendOnlyChain<Manifest> {
        &self.chain
    }

    pub(crate) fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    /// The latest manifest; `None` before the first writer. See [`AppendOnlyChain::latest`].
    pub async fn latest(&self) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
        self.admit(self.chain.latest().await?).await
    }

    /// The manifest after `slot`. See [`AppendOnlyChain::next_after`].
    pub async fn next_after(
        &self,
        slot: &ChainRecord<Manifest>,
    ) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
        self.admit(self.chain.next_after(slot).await?).await
    }

    /// The latest manifest if it is a later one than `slot`; cheap while nothing is new. See [`AppendOnlyChain::poll_newer`].
    pub async fn poll_newer(
        &self,
        slot: &ChainRecord<Manifest>,
    ) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
        self.admit(self.chain.poll_newer(slot).await?).await
    }

    /// What was read, if it holds the records of the right log.
    async fn admit(&self, slot: Option<ChainRecord<Manifest>>) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
        if let (Some(root), Some(slot)) = (&self.root, &slot)
            && !slot.state.is_purged()
        {
            slot.state.require_log(self.index.url().as_str(), &Box::pin(root.identity()).await?)?;
        }
        Ok(slot)
    }

    /// What a writer makes of the manifest that it takes over.
    pub(crate) async fn claims(
        &self,
    ) -> Result<impl Fn(Manifest) -> Result<Manifest, TransactionRejected> + Send + Sync, CatalogError> {
        let url = self.index.url().to_string();
        let claim = match &self.root {
            Some(root) => Some(Box::pin(root.claim(&url)).await?),
            None => None,
        };
        Ok(move |manifest: Manifest| match &claim {
            Some((log, claim)) => manifest.with_claim(&url, log, claim),
            None => Ok(manifest),
        })
    }
}
