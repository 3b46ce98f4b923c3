//! Deletes from a second store what copies of snapshots have left there. The protocol is in the README, section 7.
//!
//! An object of a copy bears the name that it has in the index, so a name may come back: another copier may copy a snapshot that names it,
//! and finds it there. So only what no copier can want any more is deleted: what neither the index's manifests nor its pins name is never
//! named again, and a copier pins the snapshot in the second store first, and then looks whether the index still has its pin.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use tidemark_store::{Entropy, ObjectInfo, Store, StoreSecond};

use crate::{
    error::CatalogError,
    garbage_grace::GARBAGE_GRACE,
    identity::LogId,
    index_chain::IndexChain,
    mutants,
    names::{Generation, ObjectKind, ObjectName},
    pinned_objects::{logs_with_pins, pinned_objects},
    pins::PinChain,
};

/// How many listed objects are held at most. Then it is read what is named, and decided about these.
const MAX_WINDOW_OBJECTS: usize = 50_000;
/// How many objects are deleted at once.
const DELETE_CHUNK: usize = 1000;
/// The names of all generations begin with it.
const GENERATION_PREFIX: &str = "g";

/// Collects the garbage of the copies that one log has in a second store. Any number of processes may do so, beside copiers.
#[derive(Clone)]
pub struct CopyCollector {
    index: Store,
    copies: Store,
    log: LogId,
    entropy: Entropy,
}

/// What a collection of copies did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyGarbage {
    /// Objects that were deleted.
    pub deleted: u64,
    /// Bytes that they had.
    pub deleted_bytes: u64,
    /// Objects that could not be deleted. The next collection tries again.
    pub failed: u64,
}

impl CopyCollector {
    /// The collector of the store `copies`, to which snapshots of the index in the store `index` are copied for the log `log`. Touches
    /// nothing.
    pub fn new(index: &Store, copies: &Store, log: &LogId, entropy: Entropy) -> Self {
        Self { index: index.clone(), copies: copies.clone(), log: log.clone(), entropy }
    }

    /// Deletes the segments and sidecars of the generations up to `last` that nothing names and that were written a grace before `now`,
    /// a store time of the second store. Nothing where another log has pins there, where the copies are another index's by now, and where
    /// an index began: whose an object is, its name does not say.
    ///
    /// # Errors
    ///
    /// If what is named cannot be read: then nothing is deleted. Objects that cannot be deleted are no error.
    pub async fn collect(&self, last: &Generation, now: StoreSecond) -> Result<CopyGarbage, CatalogError> {
        let (mut garbage, mut next) = (CopyGarbage::default(), Some(Generation::first()));
        if !self.has_copies().await? {
            return Ok(garbage);
        }
        while let Some(generation) = next.filter(|generation| generation <= last) {
            for kind in [ObjectKind::Segment, ObjectKind::Sidecar] {
                let mut listed = self.copies.list(&format!("{generation}/{}", kind.as_str()), None);
                let mut window = BTreeMap::new();
                while let Some(ObjectInfo { key, size, time, .. }) = listed.try_next().await? {
                    if key.parse::<ObjectName>().is_ok() && time.after(GARBAGE_GRACE) <= now {
                        window.insert(key, size);
                    }
                    if window.len() >= MAX_WINDOW_OBJECTS {
                        self.decide(&generation, std::mem::take(&mut window), &mut garbage).await?;
                    }
                }
                self.decide(&generation, window, &mut garbage).await?;
            }
            next = generation.next();
        }
        Ok(garbage)
    }

    /// Reads what is named, after these objects were listed, and deletes the others.
    async fn decide(
        &self,
        generation: &Generation,
        mut window: BTreeMap<String, u64>,
        garbage: &mut CopyGarbage,
    ) -> Result<(), CatalogError> {
        if window.is_empty() || logs_with_pins(&self.copies).await?.iter().any(|log| *log != self.log.0) {
            return Ok(());
        }
        let named = self.named(generation).await?;
        window.retain(|key, _| !named.contains(key));
        let keys: Vec<String> = window.keys().cloned().collect();
        for chunk in keys.chunks(DELETE_CHUNK) {
            // Two looks: an index begins with a record of its own chain, which no record of the pins can order.
            if !self.has_copies().await? || self.finds_index().await? {
                return Ok(());
            }
            let failed = self.copies.delete_each(chunk).await;
            for key in chunk.iter().filter(|key| !failed.contains_key(*key)) {
                garbage.deleted += 1;
                garbage.deleted_bytes += window.get(key).copied().unwrap_or_default();
            }
            garbage.failed += failed.len() as u64;
        }
        Ok(())
    }

    /// Whether it is this index that copies its snapshots there.
    async fn has_copies(&self) -> Result<bool, CatalogError> {
        let register = PinChain::open(&self.copies, &self.log, self.entropy.clone()).register().await?;
        Ok(register.copy_of.as_deref() == Some(self.index.url().as_str()))
    }

    /// Whether the second store holds an index, of whatever log and generation.
    pub async fn finds_index(&self) -> Result<bool, CatalogError> {
        let mut after = GENERATION_PREFIX.to_owned();
        // Of each folder the first object alone: there may be many.
        while let Some(object) = self.copies.list("", Some(&after)).try_next().await? {
            if !object.key.starts_with(GENERATION_PREFIX) {
                break;
            }
            let Some((folder, _)) = object.key.split_once('/') else {
                after = object.key;
                continue;
            };
            if let Ok(generation) = folder.parse::<Generation>()
                && IndexChain::has_records(&self.copies, &generation).await?
            {
                return Ok(true);
            }
            // Behind every key of the folder: "0" follows "/".
            after = format!("{folder}0");
        }
        Ok(false)
    }

    /// What is named of `generation`: by the index's latest manifest, which may be pinned next, then by the index's pins, then by those
    /// of the copies. A copy whose pin the last read does not show was pinned after the reads before it, so that its source was there.
    async fn named(&self, generation: &Generation) -> Result<BTreeSet<String>, CatalogError> {
        let chain = IndexChain::open(&self.index, generation.clone(), self.entropy.clone());
        let mut named = BTreeSet::new();
        // A closed generation takes no new pin: its last manifest was pinned before.
        if let Some(open) = chain.latest().await?.filter(|latest| latest.state.closed.is_none()) {
            named.extend(open.state.objects().map(str::to_owned));
        }
        named.extend(pinned_objects(&self.index, &self.entropy).await?);
        if mutants::counts_pins_of_copies() {
            named.extend(pinned_objects(&self.copies, &self.entropy).await?);
        }
        Ok(named)
    }
}
