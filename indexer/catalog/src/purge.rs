//! Removing an index for good: closed first, then taken off the register, then deleted name by name.
//!
//! The order makes it safe, and every step can be repeated, by this process or its successor:
//!
//! 1. The owner's process becomes the index's writer, and appends the generation's last record: *purged*. From here on
//!    nothing commits in that generation, no matter how long a writer was suspended.
//! 2. The root chain takes the index off the register, and remembers the generation: the next owner of the prefix starts the
//!    one after it. From here on no process opens the purged generation.
//! 3. The boundary of the generation's chain is raised to just below its last record. Then every object with a name of the
//!    generation is deleted, one by one. The last record and the boundary stay for good: they show a writer that was
//!    suspended all the time that it lost.

use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_store::{ChainObjectName, Entropy, Store, StoreClock, StoreError};

use crate::{
    error::{AcquireError, CatalogError, PublishError, PurgeError, TransactionRejected},
    garbage_collector::GarbageCollector,
    identity::{IndexOwner, WriterIdentity},
    index_chain::IndexChain,
    manifest::Manifest,
    names::{Generation, ObjectName},
    pins::PinChain,
    root_chain::RootChain,
    takeover::StandbyReason,
};

/// How many objects are deleted by one call.
const DELETE_CHUNK: usize = 1000;
/// How often a generation is listed at most: the next listing finds what lands during a deletion.
const MAX_LISTINGS: u32 = 4;

/// The purge of one index on behalf of its owner.
#[derive(Clone)]
pub struct IndexPurge {
    root: RootChain,
    index: Store,
    name: String,
    owner: IndexOwner,
    entropy: Entropy,
}

/// What there is to purge.
#[derive(Clone)]
pub enum PurgeTarget {
    /// Nothing: this owner has, and had, no index of that name in this log.
    Nothing,
    /// An index whose generation takes records.
    Open(Box<IndexChain>),
    /// An index that is closed for good, with its last generation. Some of its objects may still exist.
    Closed(Generation),
    /// An index that is registered but belongs to another log, which was faster with the generation `to`.
    Lost {
        /// The last generation of ours, closed for good, if there is one.
        last: Option<Generation>,
        /// The generation that the other log has.
        to: Generation,
    },
}

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeStats {
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that stay for good: the last record and the boundary of each generation.
    pub fences: u64,
    /// Objects below the generations whose names are not the catalog's. They stay.
    pub unknown: u64,
}

/// What a purge does with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeleteDecision {
    Deleted,
    Fence,
    Unknown,
}

impl IndexPurge {
    /// The purge of the index `name` of the log with this `root`, in the store `index`, for `owner`. Touches nothing.
    pub fn new(root: RootChain, index: Store, name: impl Into<String>, owner: IndexOwner, entropy: Entropy) -> Self {
        Self { root, index, name: name.into(), owner, entropy }
    }

    /// What there is to purge: read from the chains, never from memory.
    ///
    /// An index is purged for its present owner, down to the UID: a resource that was created again keeps its index when the
    /// purge of its predecessor comes late.
    pub async fn find_target(&self) -> Result<PurgeTarget, CatalogError> {
        let root = self.root.state().await?;
        match (root.indexes.get(&self.name), root.purged.get(&self.name)) {
            (Some(known), _) if known.owner == self.owner => self.registered(known.generation.clone()).await,
            (_, Some(gone)) if gone.owner == self.owner => Ok(PurgeTarget::Closed(gone.generation.clone())),
            _ => Ok(PurgeTarget::Nothing),
        }
    }

    async fn registered(&self, hint: Generation) -> Result<PurgeTarget, CatalogError> {
        let chain = match self.chain(hint.clone()).for_log(&self.root).follow_to_last().await {
            Err(CatalogError::Rejected(TransactionRejected::OfAnotherLog { .. })) => return self.lost(hint).await,
            Err(CatalogError::Rejected(TransactionRejected::Unclaimed { .. })) => return Ok(PurgeTarget::Nothing),
            chain => chain?,
        };
        match chain.latest().await? {
            Some(slot) if slot.state.is_purged() && !self.is_ours(&slot.state).await? => self.lost(hint).await,
            Some(slot) if slot.state.is_purged() => Ok(PurgeTarget::Closed(chain.generation().clone())),
            _ => Ok(PurgeTarget::Open(Box::new(chain))),
        }
    }

    /// What is ours below the generation `to`, which another log has.
    async fn lost(&self, to: Generation) -> Result<PurgeTarget, CatalogError> {
        for generation in (1..to.number()).rev().map(Generation::numbered) {
            if let Some(slot) = self.chain(generation.clone()).latest().await?
                && slot.state.is_purged()
                && self.is_ours(&slot.state).await?
            {
                return Ok(PurgeTarget::Lost { last: Some(generation), to });
            }
        }
        Ok(PurgeTarget::Lost { last: None, to })
    }

    fn chain(&self, generation: Generation) -> IndexChain {
        IndexChain::open(&self.index, generation, self.entropy.clone())
    }

    /// Whether the generation holds, or held, this log's records.
    async fn is_ours(&self, state: &Manifest) -> Result<bool, CatalogError> {
        Ok(state.belongs_to_log(self.root.id().await?.as_ref()))
    }

    /// Purges the index: waits for the writer's lease if necessary, closes the index, and deletes it.
    ///
    /// The process must not hold the lease itself: it ends its own work and releases the lease first. Any number of processes
    /// may do this at once, and each may end at any moment: the next one continues. Nothing is written or deleted where this
    /// owner has nothing. `identity`, `clock`, `heartbeats` and `on_wait` are those of [`IndexChain::acquire`].
    pub async fn run(
        &self,
        identity: &WriterIdentity,
        clock: &StoreClock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<PurgeStats, PurgeError> {
        loop {
            let chain = match self.find_target().await? {
                PurgeTarget::Nothing => return Ok(PurgeStats::default()),
                PurgeTarget::Closed(generation) => return Ok(self.sweep(&generation).await?),
                PurgeTarget::Lost { last, to } => return Ok(self.sweep_lost(last.as_ref(), &to).await?),
                PurgeTarget::Open(chain) => chain,
            };
            let lease = match chain.acquire_as_owner(identity.clone(), clock, heartbeats, &on_wait).await {
                Ok(lease) => lease,
                // Another process of the same owner was faster, or another log.
                Err(AcquireError::Chain(CatalogError::Rejected(
                    TransactionRejected::Purged { .. }
                    | TransactionRejected::Closed { .. }
                    | TransactionRejected::OfAnotherLog { .. },
                ))) => continue,
                Err(error) => return Err(error.into()),
            };
            // The wait may have been long enough for another owner to come.
            if !matches!(self.find_target().await?, PurgeTarget::Open(_)) {
                // If this fails, the lease ends by itself: nothing moves its heartbeat.
                let _ = lease.release().await;
                continue;
            }
            match lease.purge().await {
                Ok(_)
                | Err(PublishError::Fenced { .. } | PublishError::Rejected(TransactionRejected::Purged { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the index off the register and deletes everything of the generations up to `last`, which is closed for good.
    ///
    /// An earlier generation is deleted only if its chain says that it is closed, and held this log's records.
    pub async fn sweep(&self, last: &Generation) -> Result<PurgeStats, CatalogError> {
        match self.root.purge_index(&self.name, &self.owner, last).await {
            Ok(()) => {}
            // Another owner adopted the index: what is left of it belongs to that owner.
            Err(CatalogError::Rejected(TransactionRejected::OwnedByAnother { .. })) => return Ok(PurgeStats::default()),
            Err(error) => return Err(error),
        }
        self.sweep_up_to(last).await
    }

    /// Takes an index off the register that another log has, and deletes what is ours below the generation of that one.
    async fn sweep_lost(&self, last: Option<&Generation>, to: &Generation) -> Result<PurgeStats, CatalogError> {
        self.root.unregister_lost_index(&self.name, &self.owner, last, to).await?;
        match last {
            Some(last) => self.sweep_up_to(last).await,
            None => Ok(PurgeStats::default()),
        }
    }

    async fn sweep_up_to(&self, last: &Generation) -> Result<PurgeStats, CatalogError> {
        let mut swept = PurgeStats { deleted: self.purge_lists(last).await?, ..PurgeStats::default() };
        let earlier = (1..last.number()).map(Generation::numbered);
        for generation in earlier.chain([last.clone()]) {
            swept = swept.plus(self.sweep_generation(generation).await?);
        }
        Ok(swept)
    }

    /// The pins first of all, since what they hold is deleted next, and what collectors remember of it.
    async fn purge_lists(&self, last: &Generation) -> Result<u64, CatalogError> {
        let Some(log) = self.root.id().await? else { return Ok(0) };
        let pins = PinChain::open(&self.index, &log, self.entropy.clone()).purge(last).await?;
        Ok(pins + GarbageCollector::new(&self.index, &log, self.entropy.clone()).purge(last).await?)
    }

    async fn sweep_generation(&self, generation: Generation) -> Result<PurgeStats, CatalogError> {
        let chain = self.chain(generation.clone());
        let Some(latest) = chain.latest().await? else { return Ok(PurgeStats::default()) };
        if latest.state.closed.is_none() {
            return Ok(PurgeStats::default());
        }
        if !self.is_ours(&latest.state).await? {
            return Ok(PurgeStats::default());
        }
        // Before the first record is deleted: a suspended writer then finds its slot free, and the boundary above it.
        let below = latest.number.saturating_sub(1);
        chain.chain().set_boundary(below).await?;
        let policy = DeletePolicy { generation, last: latest.number };
        let mut swept = PurgeStats::default();
        for _ in 0..MAX_LISTINGS {
            let seen = self.delete_listed(&policy).await?;
            swept = PurgeStats { deleted: swept.deleted + seen.deleted, ..seen };
            if seen.deleted == 0 {
                break;
            }
        }
        Ok(swept)
    }

    /// Lists a generation once and deletes what may be deleted.
    async fn delete_listed(&self, policy: &DeletePolicy) -> Result<PurgeStats, StoreError> {
        let mut seen = PurgeStats::default();
        let mut pages = self.index.list(&policy.generation.to_string(), None).try_chunks(DELETE_CHUNK);
        while let Some(page) = pages.next().await {
            let mut doomed = Vec::new();
            for key in page.map_err(|failed| failed.1)?.into_iter().map(|object| object.key) {
                match policy.of(&key) {
                    DeleteDecision::Deleted => doomed.push(key),
                    DeleteDecision::Fence => seen.fences += 1,
                    DeleteDecision::Unknown => seen.unknown += 1,
                }
            }
            self.index.delete(&doomed).await?;
            seen.deleted += doomed.len() as u64;
        }
        Ok(seen)
    }
}

impl PurgeStats {
    fn plus(self, other: Self) -> Self {
        Self {
            deleted: self.deleted + other.deleted,
            fences: self.fences + other.fences,
            unknown: self.unknown + other.unknown,
        }
    }
}

/// Decides about the objects of one generation that is closed.
struct DeletePolicy {
    generation: Generation,
    /// The number of its last record; the boundary is just below it.
    last: u64,
}

impl DeletePolicy {
    /// What becomes of the object `key`, below the index's URL. Only exact names of the catalog are ever deleted.
    fn of(&self, key: &str) -> DeleteDecision {
        if key.parse::<ObjectName>().is_ok_and(|name| name.generation == self.generation) {
            DeleteDecision::Deleted
        } else {
            let record = key.strip_prefix(&self.generation.to_string()).and_then(|key| key.strip_prefix("/manifest/"));
            match record.and_then(ChainObjectName::parse) {
                Some(ChainObjectName::Record(number)) => decision_below(number, self.last),
                Some(ChainObjectName::Boundary(number)) => decision_below(number, self.last.saturating_sub(1)),
                None => DeleteDecision::Unknown,
            }
        }
    }
}

fn decision_below(number: u64, fence: u64) -> DeleteDecision {
    match number.cmp(&fence) {
        std::cmp::Ordering::Less => DeleteDecision::Deleted,
        std::cmp::Ordering::Equal => DeleteDecision::Fence,
        std::cmp::Ordering::Greater => DeleteDecision::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ObjectKind;

    fn policy() -> DeletePolicy {
        DeletePolicy { generation: Generation::numbered(2), last: 9 }
    }

    #[test]
    fn exact_names_of_the_generation_are_deleted_and_the_fence_stays() {
        let object = ObjectName::new(&Generation::numbered(2), ObjectKind::Segment, 3, &Entropy::seeded(1));
        let record = |number: u64| format!("g2/manifest/{number:020}");
        let boundary = |number: u64| format!("g2/manifest/boundary/{number:020}");
        for key in [object.to_string(), record(1), record(8), boundary(3), boundary(7)] {
            assert_eq!(policy().of(&key), DeleteDecision::Deleted, "{key}");
        }
        for key in [record(9), boundary(8)] {
            assert_eq!(policy().of(&key), DeleteDecision::Fence, "{key}");
        }
        let neighbour = ObjectName { generation: Generation::numbered(1), ..object.clone() };
        for key in [
            record(10),
            boundary(9),
            "g2/manifest/8".to_owned(),
            record(1).replace("g2", "g1"),
            neighbour.to_string(),
            object.to_string().replace("segment", "plan"),
            format!("{object}.bak"),
            format!("other/{object}"),
            format!("g2/{object}"),
            format!("g2/segment/{}", record(1)),
            format!("g2/manifest/{}", record(1)),
            format!("g2/manifest/boundary/{}", boundary(1)),
            "g2".to_owned(),
            String::new(),
        ] {
            assert_eq!(policy().of(&key), DeleteDecision::Unknown, "{key}");
        }
    }

    proptest! {
        /// Objects beside or below an index stay, those of another index included.
        #[test]
        fn what_is_below_another_prefix_stays(prefix in "[a-z0-9/.-]{1,40}", number: u64, epoch: u64, kind: bool) {
            let kind = if kind { ObjectKind::Segment } else { ObjectKind::Sidecar };
            let object = ObjectName::new(&Generation::numbered(2), kind, epoch, &Entropy::seeded(number)).to_string();
            for own in [object, format!("g2/manifest/{number:020}"), format!("g2/manifest/boundary/{number:020}")] {
                prop_assert_eq!(policy().of(&format!("{prefix}/{own}")), DeleteDecision::Unknown);
                prop_assert_eq!(policy().of(&format!("{own}/{prefix}")), DeleteDecision::Unknown);
            }
        }

        #[test]
        fn any_key_that_is_deleted_is_a_name_of_the_catalog(key in "g2/(segment|sidecar|manifest|boundary|/|[0-9a-f-]{1,53}){1,5}") {
            if policy().of(&key) == DeleteDecision::Deleted {
                let record = key.strip_prefix("g2/manifest/").and_then(ChainObjectName::parse);
                prop_assert!(key.parse::<ObjectName>().is_ok() || record.is_some());
            }
        }
    }
}
