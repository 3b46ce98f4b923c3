//! What of an index nothing names, found as a collector's pass finds it, in the same order of reads. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use serde::Serialize;
use tidemark_store::{Entropy, ObjectInfo, Store, StoreSecond};

use crate::{
    error::CatalogError,
    garbage_collector::GarbageCollector,
    garbage_grace::GARBAGE_GRACE,
    garbage_list::GarbageKey,
    identity::LogId,
    index_chain::IndexChain,
    names::{Generation, ObjectKind, ObjectName, generation_of_list},
    pinned_objects::pinned_objects,
    pins::PinChain,
    referenced_objects::{GenerationFate, ReferencedObjects},
};

/// How many listed objects are held at most. Then it is read again what is named, and decided about these.
const MAX_WINDOW_OBJECTS: usize = 50_000;

/// What a survey found among the objects that bear the catalog's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GarbageCounts {
    /// Objects in the folders of segments and sidecars of the generations that have a chain.
    pub listed: u64,
    /// Those that nothing names, and nothing ever will.
    pub garbage: u64,
    /// Their bytes.
    pub garbage_bytes: u64,
    /// The garbage that a collector knows and deletes a day after it came to know it. The first pass after this takes up the rest.
    pub candidates: u64,
    /// Objects that nothing names and a manifest may still name: uploads of the present writer, and those of another log.
    pub undecided: u64,
    /// Those whose names are not the catalog's.
    pub others: u64,
    /// Lists of pins that no pin has. No collector takes them.
    pub stray_lists: u64,
}

/// Looks for what nothing names. Any number of processes may do so, beside writers, pinners and collectors.
#[derive(Clone, Debug)]
pub struct GarbageSurvey {
    index: Store,
    log: LogId,
    entropy: Entropy,
}

/// What was listed and is not yet decided, by generation.
type SurveyWindow = BTreeMap<Generation, Vec<(GarbageKey, u64)>>;

impl GarbageSurvey {
    /// A survey of the index in the store `index`, on behalf of the log `log`. Touches nothing.
    pub fn new(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        Self { index: index.clone(), log: log.clone(), entropy }
    }

    /// Lists every generation, then reads what manifests and pins name, and counts. `leak` is told of each object that nothing names and
    /// that no collector knows yet, and of each list without a pin, by its key and size.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Corrupt`] if a manifest or a pin's list cannot be read: what is named is not known then.
    pub async fn count(&self, mut leak: impl FnMut(&str, u64) + Send) -> Result<GarbageCounts, CatalogError> {
        let (mut counts, candidates) = (GarbageCounts::default(), self.candidates().await?);
        let (mut window, mut held, mut newest) = (SurveyWindow::new(), 0, None);
        for generation in IndexChain::generations_after(&self.index, 0).await? {
            for kind in [ObjectKind::Segment, ObjectKind::Sidecar] {
                let mut objects = self.index.list(&format!("{generation}/{}", kind.as_str()), None);
                while let Some(ObjectInfo { key, size, .. }) = objects.try_next().await? {
                    counts.listed += 1;
                    let Some(key) = key.parse::<ObjectName>().ok().and_then(|name| GarbageKey::of(&name)) else {
                        counts.others += 1;
                        continue;
                    };
                    window.entry(generation.clone()).or_default().push((key, size));
                    held += 1;
                    if held >= MAX_WINDOW_OBJECTS {
                        let window = std::mem::take(&mut window);
                        newest = newest.max(self.decide(window, &candidates, &mut counts, &mut leak).await?);
                        held = 0;
                    }
                }
            }
        }
        newest = newest.max(self.decide(window, &candidates, &mut counts, &mut leak).await?);
        if let Some(newest) = newest {
            self.count_stray_lists(newest.before(GARBAGE_GRACE), &mut counts, &mut leak).await?;
        }
        Ok(counts)
    }

    /// What a collector's lists name, by generation. A list that is lost names nothing: its objects get a new date.
    async fn candidates(&self) -> Result<BTreeMap<Generation, BTreeSet<GarbageKey>>, CatalogError> {
        let mut candidates = BTreeMap::<Generation, BTreeSet<GarbageKey>>::new();
        for (name, keys) in GarbageCollector::new(&self.index, &self.log, self.entropy.clone()).candidates().await? {
            if let Some(generation) = generation_of_list(&name) {
                candidates.entry(generation).or_default().extend(keys);
            }
        }
        Ok(candidates)
    }

    /// Reads what is named, after these objects were listed: first the manifests, then the pins. Gives the store time of the newest
    /// manifest.
    async fn decide(
        &self,
        window: SurveyWindow,
        candidates: &BTreeMap<Generation, BTreeSet<GarbageKey>>,
        counts: &mut GarbageCounts,
        leak: &mut (impl FnMut(&str, u64) + Send),
    ) -> Result<Option<StoreSecond>, CatalogError> {
        let (mut referenced, mut newest) = (ReferencedObjects::default(), None);
        for generation in window.keys() {
            let chain = IndexChain::open(&self.index, generation.clone(), self.entropy.clone());
            let Some(latest) = chain.latest().await? else { continue };
            let fate = GenerationFate::of(&latest.state, &self.log);
            if matches!(fate, GenerationFate::Open { .. } | GenerationFate::Foreign) {
                referenced.named.extend(latest.state.objects().map(str::to_owned));
            }
            newest = newest.max(Some(latest.time));
            referenced.generations.insert(generation.clone(), fate);
        }
        referenced.named.extend(pinned_objects(&self.index, &self.entropy).await?);
        for (generation, objects) in window {
            let known = candidates.get(&generation);
            for (key, size) in objects {
                let name = key.in_generation(&generation);
                if !referenced.is_garbage(&generation, &key) {
                    counts.undecided += u64::from(!referenced.named.contains(&name));
                    continue;
                }
                counts.garbage += 1;
                counts.garbage_bytes += size;
                if known.is_some_and(|known| known.contains(&key)) {
                    counts.candidates += 1;
                } else {
                    leak(&name, size);
                }
            }
        }
        Ok(newest)
    }

    /// Lists of this log's pins that were written up to `until`. A younger one may be that of a pin that is being made, by a process that was
    /// suspended for less than the grace.
    async fn count_stray_lists(
        &self,
        until: StoreSecond,
        counts: &mut GarbageCounts,
        leak: &mut (impl FnMut(&str, u64) + Send),
    ) -> Result<(), CatalogError> {
        let pins = PinChain::open(&self.index, &self.log, self.entropy.clone());
        let lists = pins.lists().await?;
        let register = pins.register().await?;
        let named: BTreeSet<&str> = register.pins.values().map(|pin| pin.list.as_str()).collect();
        let is_stray = |list: &&ObjectInfo| list.time <= until && !named.contains(list.key.as_str());
        for ObjectInfo { key, size, .. } in lists.iter().filter(is_stray) {
            counts.stray_lists += 1;
            leak(key, *size);
        }
        Ok(())
    }
}
