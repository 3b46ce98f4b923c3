//! Deletes the objects of an index that nothing names any more. The protocol is in the README, section 7.
//!
//! A pass reads in this order: the listing, then the manifests, then the pins. An object that is published or pinned meanwhile is
//! seen by one of the later reads. Nothing is deleted that was not seen unreferenced by two passes a whole grace apart.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use serde::Serialize;
use tidemark_store::{Chain, ChainRecord, Entropy, ObjectInfo, RECORD_RETENTION, Store, StoreSecond};

use crate::{
    error::{CatalogError, TransactionRejected},
    garbage::{GarbageCandidate, GarbagePlan, GarbageRoots, GarbageState, GenerationFate},
    identity::LogId,
    index::IndexChain,
    manifest::Manifest,
    mutants,
    names::{Generation, ObjectKind, ObjectName},
    pins::{IndexPin, PIN_FOLDER, PinChain},
};

/// The folder of the collectors' chains, below the index's URL.
const GARBAGE_FOLDER: &str = "gc";
/// How many objects are deleted before the pass looks again whether another one has begun.
const DELETE_CHUNK: usize = 1000;
/// How often a pass reads the pins again because one was dropped while its list was read.
const MAX_PIN_READS: u32 = 4;

/// Collects the garbage of one index on behalf of its log. Any number of processes may do this; of two passes at once the
/// one that began first stops.
#[derive(Clone)]
pub struct GarbageCollector {
    index: Store,
    log: LogId,
    entropy: Entropy,
    chain: Chain<GarbageState>,
}

/// What a pass found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GarbageReport {
    /// Objects in the folders of the generations' segments and sidecars.
    pub listed: u64,
    /// Objects that a manifest or a pin names.
    pub named: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Bytes that they had.
    pub deleted_bytes: u64,
    /// Garbage that is deleted by a later pass, after the grace.
    pub candidates: u64,
    /// Garbage beyond the number of candidates that a pass carries.
    pub waiting: u64,
    /// Those whose names are not the catalog's. They stay.
    pub others: u64,
}

/// An object of the listing.
struct ListedObject {
    size: u64,
    time: StoreSecond,
}

impl GarbageCollector {
    /// The collector of the index in the store `index`, for the log `log`. Touches nothing.
    pub fn new(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let chain = Chain::new(index.below(&format!("{GARBAGE_FOLDER}/{log}")), entropy.clone());
        Self { index: index.clone(), log: log.clone(), entropy, chain }
    }

    /// The collectors' chain.
    pub fn chain(&self) -> &Chain<GarbageState> {
        &self.chain
    }

    /// Makes one pass, as `collector`. It may end at any step, and a later pass continues.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::Fenced`] if another pass began meanwhile; [`CatalogError::Corrupt`] if a pin's list cannot be read: then
    /// nothing is deleted. After [`CatalogError::Unknown`] the process has to end.
    pub async fn collect(&self, collector: &str) -> Result<GarbageReport, CatalogError> {
        let begun = self.append(|state| Ok(state.begin_pass(collector))).await?;
        let listed = self.list().await?;
        let roots = self.roots(listed.keys(), begun.time).await?;
        let objects = listed.iter().map(|(key, object)| (key.as_str(), object.time));
        let plan = GarbagePlan::new(objects, &begun.state.candidates, &roots, begun.time);
        let mut report = GarbageReport {
            listed: listed.len() as u64,
            named: roots.named.len() as u64,
            candidates: plan.candidates.len() as u64,
            waiting: plan.waiting,
            others: plan.unknown,
            ..GarbageReport::default()
        };
        for chunk in plan.due.chunks(DELETE_CHUNK) {
            self.require_own(&begun).await?;
            self.index.delete(chunk).await?;
            report.deleted += chunk.len() as u64;
            report.deleted_bytes +=
                chunk.iter().filter_map(|key| listed.get(key)).map(|object| object.size).sum::<u64>();
        }
        self.end(&begun, &plan.candidates).await?;
        Ok(report)
    }

    async fn end(
        &self,
        begun: &ChainRecord<GarbageState>,
        candidates: &BTreeMap<String, GarbageCandidate>,
    ) -> Result<(), CatalogError> {
        let epoch = begun.state.epoch;
        self.append(|state| state.end_pass(epoch, candidates)).await.map(drop)
    }

    /// Refused if another pass has begun.
    async fn require_own(&self, begun: &ChainRecord<GarbageState>) -> Result<(), CatalogError> {
        let epoch = begun.state.epoch;
        match self.chain.latest_after(begun).await? {
            Some(newer) if !mutants::is_own_pass(newer.state.epoch == epoch) => {
                Err(TransactionRejected::Fenced { epoch, by: newer.state.epoch }.into())
            }
            _ => Ok(()),
        }
    }

    /// The segments and sidecars of every generation that has a chain. Not all that lies below the URL: it may be that of a
    /// bucket with millions of other objects, and the records of the chains are not for a collector to delete.
    async fn list(&self) -> Result<BTreeMap<String, ListedObject>, CatalogError> {
        let mut listed = BTreeMap::new();
        for generation in (1..).map(Generation::numbered) {
            if self.index.list(&format!("{generation}/manifest"), None).try_next().await?.is_none() {
                break;
            }
            for kind in [ObjectKind::Segment, ObjectKind::Sidecar] {
                let mut objects = self.index.list(&format!("{generation}/{}", kind.as_str()), None);
                while let Some(ObjectInfo { key, size, time, .. }) = objects.try_next().await? {
                    listed.insert(key, ListedObject { size, time });
                }
            }
        }
        Ok(listed)
    }

    /// What is named now: by the manifests of every generation that the listing shows, and by every log's pins.
    async fn roots(
        &self,
        listed: impl Iterator<Item = &String>,
        now: StoreSecond,
    ) -> Result<GarbageRoots, CatalogError> {
        let names = listed.filter_map(|key| key.parse::<ObjectName>().ok());
        let generations: BTreeSet<Generation> = names.map(|name| name.generation).collect();
        let mut roots = GarbageRoots::default();
        for generation in generations {
            self.add_generation(generation, now, &mut roots).await?;
        }
        self.add_pins(&mut roots).await?;
        Ok(roots)
    }

    async fn add_generation(
        &self,
        generation: Generation,
        now: StoreSecond,
        roots: &mut GarbageRoots,
    ) -> Result<(), CatalogError> {
        let chain = IndexChain::open(&self.index, generation.clone(), self.entropy.clone());
        let Some(latest) = chain.latest().await? else { return Ok(()) };
        let fate = match &latest.state {
            state if !state.belongs_to_log(Some(&self.log)) => GenerationFate::Foreign,
            state if state.closed.is_some() => GenerationFate::Closed,
            Manifest { epoch, .. } => GenerationFate::Open { epoch: *epoch },
        };
        if fate != GenerationFate::Foreign {
            // A reader may still open a manifest of the last hour. Earlier ones go now, so that none is left that names what has
            // been a candidate for the whole grace.
            chain.chain().trim(&latest, now.before(RECORD_RETENTION)).await?;
        }
        if matches!(fate, GenerationFate::Open { .. }) {
            roots.named.extend(latest.state.objects().map(str::to_owned));
        }
        roots.generations.insert(generation, fate);
        Ok(())
    }

    /// The pins of every log: a listing that begins after the manifests were read shows each chain that counts.
    async fn add_pins(&self, roots: &mut GarbageRoots) -> Result<(), CatalogError> {
        let keys: Vec<_> = self.index.list(PIN_FOLDER, None).map_ok(|object| object.key).try_collect().await?;
        let logs: BTreeSet<_> = keys.iter().filter_map(|key| key.split('/').nth(1)).collect();
        for log in logs {
            let pins = PinChain::open(&self.index, &LogId(log.to_owned()), self.entropy.clone());
            roots.named.extend(self.pinned(&pins).await?);
        }
        Ok(())
    }

    async fn pinned(&self, pins: &PinChain) -> Result<BTreeSet<String>, CatalogError> {
        let mut reads = 0;
        loop {
            reads += 1;
            let register = pins.register().await?;
            match read_lists(pins, register.pins.values()).await {
                // A pin that is dropped takes its list with it.
                Err(CatalogError::Corrupt { .. }) if reads < MAX_PIN_READS && pins.register().await? != register => {}
                named => return named,
            }
        }
    }

    async fn append(
        &self,
        transaction: impl Fn(&GarbageState) -> Result<GarbageState, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<GarbageState>, CatalogError> {
        let first = GarbageState::default();
        self.chain.append(None, |state| transaction(state.unwrap_or(&first)).map(Some)).await
    }
}

async fn read_lists(pins: &PinChain, of: impl Iterator<Item = &IndexPin>) -> Result<BTreeSet<String>, CatalogError> {
    let mut named = BTreeSet::new();
    let mut read = BTreeSet::new();
    for pin in of {
        if read.insert(&pin.list) {
            named.extend(pins.read_list(pin).await?.objects().map(str::to_owned));
        }
    }
    Ok(named)
}
