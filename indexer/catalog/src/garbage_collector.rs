//! Deletes the objects of an index that nothing names any more. The protocol is in the README, section 7.
//!
//! A pass reads in this order: the listing, then the manifests, then the pins. An object that is published or pinned meanwhile is
//! seen by one of the later reads. Nothing is deleted that was not seen unreferenced by two passes a whole grace apart.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use serde::Serialize;
use tidemark_store::{
    AppendOnlyChain, ChainRecord, Entropy, ObjectInfo, RECORD_RETENTION, Store, StoreError, StoreSecond,
};

use crate::{
    collector_state::{CollectorState, PassOutcome, PassScope},
    error::{CatalogError, TransactionRejected},
    garbage_grace::{CandidateLimits, DueObject, GARBAGE_GRACE, GracePlan, ListedObject, NewGarbageList},
    garbage_list::{GarbageKey, GarbageList, GarbageListFolder},
    identity::LogId,
    index_chain::IndexChain,
    mutants,
    names::{Generation, ObjectKind, ObjectName},
    pinned_objects::pinned_objects,
    referenced_objects::{GenerationFate, ReferencedObjects},
};

/// The folder of the collectors' chains, below the index's URL.
const GARBAGE_FOLDER: &str = "gc";
/// The folder of the lists, below that of a log's collectors; in it is one folder a generation.
const LIST_FOLDER: &str = "list";
/// How many listed objects are held at most. Then what is referenced is read again, and it is decided about these.
const MAX_WINDOW_OBJECTS: usize = 50_000;
/// How many objects are deleted before the pass looks again whether another one has begun.
const DELETE_CHUNK: usize = 1000;

/// Collects the garbage of one index on behalf of its log. Any number of processes may do this; of two passes at once the
/// one that began first stops.
#[derive(Clone)]
pub struct GarbageCollector {
    index: Store,
    log: LogId,
    entropy: Entropy,
    chain: AppendOnlyChain<CollectorState>,
    lists: GarbageListFolder,
}

/// What a pass found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GarbageReport {
    /// Objects in the folders of segments and sidecars of the generations that it listed.
    pub listed: u64,
    /// Objects that a manifest or a pin names.
    pub named: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Bytes that they had.
    pub deleted_bytes: u64,
    /// Garbage that is deleted by a later pass, after the grace.
    pub candidates: u64,
    /// Garbage beyond the number of candidates that the collectors carry.
    pub waiting: u64,
    /// Those whose names are not the catalog's. They stay.
    pub others: u64,
}

impl GarbageCollector {
    /// The collector of the index in the store `index`, for the log `log`. Touches nothing.
    pub fn new(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let folder = index.below(&format!("{GARBAGE_FOLDER}/{log}"));
        let lists = GarbageListFolder::new(folder.below(LIST_FOLDER), entropy.clone());
        Self {
            index: index.clone(),
            log: log.clone(),
            chain: AppendOnlyChain::new(folder, entropy.clone()),
            lists,
            entropy,
        }
    }

    /// Deletes the lists of the generations up to `last`, which were purged. Gives how many.
    pub(crate) async fn purge(&self, last: &Generation) -> Result<u64, CatalogError> {
        self.lists.purge(last).await
    }

    /// What the lists of the latest state name, each with its list's name. Writes nothing; a list that cannot be read is left out.
    pub(crate) async fn candidates(&self) -> Result<Vec<(String, Vec<GarbageKey>)>, CatalogError> {
        let mut candidates = Vec::new();
        let lists = self.chain.latest().await?.map(|latest| latest.state.lists).unwrap_or_default();
        for (name, list) in &lists {
            if let Some(keys) = self.lists.read(name, list).await? {
                candidates.push((name.clone(), keys));
            }
        }
        Ok(candidates)
    }

    /// The collectors' chain.
    pub fn chain(&self) -> &AppendOnlyChain<CollectorState> {
        &self.chain
    }

    /// Makes one pass, as `collector`. It may end at any step, and a later pass continues. Objects that cannot be deleted are tried
    /// again by the next one. Once a day a pass lists every generation, the others leave out those that are closed and have no
    /// garbage.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::Fenced`] if another pass began meanwhile; [`CatalogError::Corrupt`] if a pin's list cannot be read: then
    /// nothing is deleted. After [`CatalogError::Unknown`] the process has to end.
    pub async fn collect(&self, collector: &str) -> Result<GarbageReport, CatalogError> {
        self.pass(collector, false).await
    }

    /// As [`Self::collect`], and lists every generation.
    ///
    /// # Errors
    ///
    /// As [`Self::collect`].
    pub async fn collect_everywhere(&self, collector: &str) -> Result<GarbageReport, CatalogError> {
        self.pass(collector, true).await
    }

    async fn pass(&self, collector: &str, wants_all: bool) -> Result<GarbageReport, CatalogError> {
        let begun = self.append(|state| Ok(state.begin_pass(collector))).await?;
        let scope = begun.state.scope(begun.time, wants_all);
        self.lists.delete_orphans(&begun.state.lists, begun.time.before(GARBAGE_GRACE)).await?;
        let open = self.generations_to_list(&begun.state, &scope).await?;
        let generations: BTreeSet<_> = scope.ended.union(&open).cloned().collect();
        let mut before = Vec::new();
        for (name, list) in &begun.state.lists {
            if let Some(keys) = self.lists.read(name, list).await? {
                before.push((name.clone(), list.clone(), keys));
            }
        }
        let mut pass = GarbagePass {
            collector: self,
            plan: GracePlan::new(before, generations.clone(), begun.time, CandidateLimits::FORMAT),
            begun: &begun,
            referenced: ReferencedObjects::default(),
            window: PassWindow { generations: open, objects: Vec::new() },
            report: GarbageReport::default(),
            failure: None,
        };
        for generation in &generations {
            pass.list_generation(generation).await?;
        }
        pass.decide().await?;
        pass.end(&scope).await
    }

    /// Refused if another pass has begun.
    async fn require_own(&self, begun: &ChainRecord<CollectorState>) -> Result<(), CatalogError> {
        let epoch = begun.state.epoch;
        match self.chain.latest_after(begun).await? {
            Some(newer) if !mutants::is_own_pass(newer.state.epoch == epoch) => {
                Err(TransactionRejected::Fenced { epoch, by: newer.state.epoch }.into())
            }
            _ => Ok(()),
        }
    }

    /// The generations after the `ended` ones that have a chain. An index that was lost and made again as a later one lacks some. What comes
    /// after those costs a request for each folder to find, so only a full pass looks for it; the others go on from where one was found.
    async fn generations_to_list(
        &self,
        state: &CollectorState,
        scope: &PassScope,
    ) -> Result<BTreeSet<Generation>, CatalogError> {
        let mut generations = BTreeSet::new();
        if !scope.is_full {
            for first in std::iter::once(state.ended + 1).chain(state.beyond.iter().map(Generation::number)) {
                self.add_successive(first, &mut generations).await?;
            }
        }
        // The next one is gone, or none ever began.
        if generations.is_empty() {
            generations = IndexChain::generations_after(&self.index, state.ended).await?;
        }
        Ok(generations)
    }

    /// Adds the generations with a chain from `first` to the next one without.
    async fn add_successive(&self, first: u64, generations: &mut BTreeSet<Generation>) -> Result<(), CatalogError> {
        for generation in (first..).map(Generation::numbered) {
            if generations.contains(&generation) || !IndexChain::has_records(&self.index, &generation).await? {
                break;
            }
            generations.insert(generation);
        }
        Ok(())
    }

    /// Adds what is named now: by the manifests of these generations, and by every log's pins. No manifest names an object of
    /// another generation than its own.
    async fn add_referenced(
        &self,
        generations: &BTreeSet<Generation>,
        now: StoreSecond,
        referenced: &mut ReferencedObjects,
    ) -> Result<(), CatalogError> {
        for generation in generations {
            self.add_generation(generation, now, referenced).await?;
        }
        referenced.named.extend(pinned_objects(&self.index, &self.entropy).await?);
        Ok(())
    }

    async fn add_generation(
        &self,
        generation: &Generation,
        now: StoreSecond,
        referenced: &mut ReferencedObjects,
    ) -> Result<(), CatalogError> {
        let chain = IndexChain::open(&self.index, generation.clone(), self.entropy.clone());
        let Some(latest) = chain.latest().await? else { return Ok(()) };
        let fate = GenerationFate::of(&latest.state, &self.log);
        let is_first = !referenced.generations.contains_key(generation);
        if is_first && fate != GenerationFate::Foreign {
            // A reader may still open a manifest of the last hour. Earlier ones go now, so that none is left that names what has
            // been a candidate for the whole grace.
            chain.chain().trim(&latest, now.before(RECORD_RETENTION)).await?;
        }
        if matches!(fate, GenerationFate::Open { .. }) {
            referenced.named.extend(latest.state.objects().map(str::to_owned));
        }
        // Only if all that is listed of it comes after its end: what was named before is not listed again.
        if is_first && latest.state.closed.is_some() {
            referenced.closed.insert(generation.clone());
        }
        referenced.generations.insert(generation.clone(), fate);
        Ok(())
    }

    async fn append(
        &self,
        transaction: impl Fn(&CollectorState) -> Result<CollectorState, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<CollectorState>, CatalogError> {
        let first = CollectorState::new(self.log.clone());
        let step = |state: Option<&CollectorState>| {
            let state = state.unwrap_or(&first);
            TransactionRejected::unless_same_log(GARBAGE_FOLDER, &self.log, &state.log)?;
            transaction(state).map(Some)
        };
        self.chain.append(None, step).await
    }
}

/// One pass, between its two records.
struct GarbagePass<'a> {
    collector: &'a GarbageCollector,
    begun: &'a ChainRecord<CollectorState>,
    plan: GracePlan,
    /// What was named at any of the reads.
    referenced: ReferencedObjects,
    window: PassWindow,
    report: GarbageReport,
    /// Why objects were not deleted.
    failure: Option<StoreError>,
}

/// What was listed and is not yet decided.
#[derive(Default)]
struct PassWindow {
    /// The generations whose chains are read next: each that has objects here, and at first each that may still change.
    generations: BTreeSet<Generation>,
    objects: Vec<ListedObject>,
}

impl GarbagePass<'_> {
    /// Lists the segments and sidecars. Not all that lies below the URL: it may be that of a bucket with millions of other
    /// objects, and the records of the chains are not for a collector to delete.
    async fn list_generation(&mut self, generation: &Generation) -> Result<(), CatalogError> {
        for kind in [ObjectKind::Segment, ObjectKind::Sidecar] {
            let mut objects = self.collector.index.list(&format!("{generation}/{}", kind.as_str()), None);
            while let Some(ObjectInfo { key, size, time, .. }) = objects.try_next().await? {
                self.report.listed += 1;
                let Some(key) = key.parse::<ObjectName>().ok().and_then(|name| GarbageKey::of(&name)) else {
                    self.report.others += 1;
                    continue;
                };
                if !self.window.generations.contains(generation) {
                    self.window.generations.insert(generation.clone());
                }
                self.window.objects.push(ListedObject { generation: generation.clone(), key, size, time });
                if self.window.objects.len() >= MAX_WINDOW_OBJECTS {
                    self.decide().await?;
                }
            }
        }
        Ok(())
    }

    /// Reads what is referenced, after these objects were listed, and deletes what is due of them.
    async fn decide(&mut self) -> Result<(), CatalogError> {
        let PassWindow { generations, objects } = std::mem::take(&mut self.window);
        self.collector.add_referenced(&generations, self.begun.time, &mut self.referenced).await?;
        let due = self.plan.observe(objects, &self.referenced);
        for chunk in due.chunks(DELETE_CHUNK) {
            self.collector.require_own(self.begun).await?;
            self.delete(chunk).await;
        }
        Ok(())
    }

    async fn delete(&mut self, due: &[DueObject]) {
        let keys: Vec<_> = due.iter().map(|due| due.object.key.in_generation(&due.object.generation)).collect();
        match self.collector.index.delete(&keys).await {
            Ok(()) => {
                self.report.deleted += due.len() as u64;
                self.report.deleted_bytes += due.iter().map(|due| due.object.size).sum::<u64>();
            }
            Err(error) => {
                // One that is locked or denied keeps no other from being deleted, and no pass from its end.
                self.plan.keep(due);
                self.failure.get_or_insert(error);
            }
        }
    }

    /// The lists that are new, then the record that names them and no longer those that are done, then the end of those.
    async fn end(self, scope: &PassScope) -> Result<GarbageReport, CatalogError> {
        let Self { collector, begun, plan, referenced, report, failure, .. } = self;
        let planned = plan.finish();
        let mut lists = planned.kept;
        for NewGarbageList { generation, keys, since } in planned.new {
            let (name, list) = collector.lists.create(&generation, &keys).await?;
            lists.insert(name, GarbageList { since, ..list });
        }
        let full_pass = match planned.waiting {
            // Dated by its begin: what comes while it lists is for the next one.
            0 if scope.is_full => Some(begun.time),
            0 => begun.state.full_pass,
            _ => None,
        };
        let ended = referenced.ended_after(begun.state.ended);
        let outcome = PassOutcome { ended, beyond: referenced.open_beyond(ended), full_pass, lists };
        let ended = collector.append(|state| state.end_pass(begun.state.epoch, &outcome)).await;
        let names = |lists: &BTreeMap<String, GarbageList>, but: &BTreeMap<String, GarbageList>| -> Vec<String> {
            lists.keys().filter(|name| !but.contains_key(*name)).cloned().collect()
        };
        match ended {
            Ok(_) => collector.lists.delete(&names(&begun.state.lists, &outcome.lists)).await,
            Err(error) => {
                // Only a refusal says that no record names them, nor ever will.
                if matches!(error, CatalogError::Rejected(_)) {
                    collector.lists.delete(&names(&outcome.lists, &begun.state.lists)).await;
                }
                return Err(error);
            }
        }
        let (named, candidates, waiting) = (referenced.named.len() as u64, planned.candidates, planned.waiting);
        failure.map_or(Ok(GarbageReport { named, candidates, waiting, ..report }), |error| Err(error.into()))
    }
}
