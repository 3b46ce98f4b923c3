//! Removing an index for good: closed first, then taken off the register, then deleted name by name.
//!
//! The order is what makes it safe, and every step can be done again, by this process or its successor:
//!
//! 1. The owner's process becomes the index's writer, and appends the generation's last record: *purged*. From here on
//!    nothing commits in that generation, whoever slept and for how long.
//! 2. The root chain takes the index off the register, and remembers the generation: whoever has the prefix next starts the
//!    one after it. From here on nobody opens the purged generation.
//! 3. The boundary of the generation's chain is raised to just below its last record. Then what bears a name of the
//!    generation is deleted, object by object. The last record and the boundary stay for good: they are what tells a writer
//!    who slept through all this that he lost.

use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_store::{
    Clock, Entropy, Store, StoreError,
    planted::{Fault, planted},
};

use crate::{
    AcquireError, ChainError, Generation, Identity, IndexChain, Manifest, ObjectName, Owner, PublishError, PurgeError,
    Refused, RootChain, Waiting, chain::ChainObject,
};

/// How many objects are deleted by one call.
const CHUNK: usize = 1000;
/// How often a generation is listed at most: what lands while it is deleted is found by the next look.
const LOOKS: u32 = 4;

/// The purge of one index on behalf of its owner.
#[derive(Clone)]
pub struct Purge {
    root: RootChain,
    index: Store,
    name: String,
    owner: Owner,
    entropy: Entropy,
}

/// What there is to purge.
#[derive(Clone)]
pub enum Purgeable {
    /// Nothing: no index of that name is, or was, this very owner's in this log.
    Nothing,
    /// An index whose generation takes records.
    Open(Box<IndexChain>),
    /// An index that is closed for good, with its last generation. Perhaps not everything of it is deleted.
    Closed(Generation),
    /// An index that is registered and another log's: that one was faster with the generation `to`.
    Lost {
        /// The last generation of ours, closed for good, if there is one.
        last: Option<Generation>,
        /// The generation that the other log has.
        to: Generation,
    },
}

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that stay for good: the last record and the boundary of each generation.
    pub fences: u64,
    /// Objects below the generations whose names mean nothing to the catalog. They stay.
    pub unknown: u64,
}

/// What a purge does with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Deleted,
    Fence,
    Unknown,
}

impl Purge {
    /// The purge of the index `name` of the log with this `root`, in the store `index`, for `owner`. Touches nothing.
    pub fn new(root: RootChain, index: Store, name: impl Into<String>, owner: Owner, entropy: Entropy) -> Self {
        Self { root, index, name: name.into(), owner, entropy }
    }

    /// What there is to purge: read from the chains, never from memory.
    ///
    /// An index is purged for the owner who has it now, down to the UID: a resource that was made again keeps its index
    /// when the purge of its predecessor comes late.
    pub async fn look(&self) -> Result<Purgeable, ChainError> {
        let root = self.root.state().await?;
        match (root.indexes.get(&self.name), root.purged.get(&self.name)) {
            (Some(known), _) if known.owner == self.owner => self.registered(known.generation.clone()).await,
            (_, Some(gone)) if gone.owner == self.owner => Ok(Purgeable::Closed(gone.generation.clone())),
            _ => Ok(Purgeable::Nothing),
        }
    }

    async fn registered(&self, hint: Generation) -> Result<Purgeable, ChainError> {
        let chain = match self.chain(hint.clone()).of_log(&self.root).last().await {
            Err(ChainError::Refused(Refused::OfAnotherLog { .. })) => return self.lost(hint).await,
            Err(ChainError::Refused(Refused::Unclaimed { .. })) => return Ok(Purgeable::Nothing),
            chain => chain?,
        };
        match chain.latest().await? {
            Some(slot) if slot.state.is_purged() && !self.is_ours(&slot.state).await? => self.lost(hint).await,
            Some(slot) if slot.state.is_purged() || planted(Fault::PurgeBeforeClosing) => {
                Ok(Purgeable::Closed(chain.generation().clone()))
            }
            _ => Ok(Purgeable::Open(Box::new(chain))),
        }
    }

    /// What is ours below the generation `to`, which another log has.
    async fn lost(&self, to: Generation) -> Result<Purgeable, ChainError> {
        for generation in (1..to.number().unwrap_or_default()).rev().map(Generation::numbered) {
            if let Some(slot) = self.chain(generation.clone()).latest().await?
                && slot.state.is_purged()
                && self.is_ours(&slot.state).await?
            {
                return Ok(Purgeable::Lost { last: Some(generation), to });
            }
        }
        Ok(Purgeable::Lost { last: None, to })
    }

    fn chain(&self, generation: Generation) -> IndexChain {
        IndexChain::open(&self.index, generation, self.entropy.clone())
    }

    /// Whether the generation holds, or held, this log's records.
    async fn is_ours(&self, state: &Manifest) -> Result<bool, ChainError> {
        Ok(state.is_of(self.root.id().await?.as_ref()) || planted(Fault::OtherLogAdmitted))
    }

    /// Purges the index: waits for the writer's role if need be, closes the index, and deletes it.
    ///
    /// The process must not hold the role itself: it ends its own work and gives the role up first. Any number of processes
    /// may do this at once, and each may end at any moment: whoever comes next goes on. Nothing is written or deleted where
    /// there is nothing of this owner's. `identity`, `clock`, `beats` and `on_wait` are those of [`IndexChain::acquire`].
    pub async fn run(
        &self,
        identity: &Identity,
        clock: &Clock,
        beats: &Store,
        on_wait: impl Fn(Waiting) + Send + Sync,
    ) -> Result<Swept, PurgeError> {
        loop {
            let chain = match self.look().await? {
                Purgeable::Nothing => return Ok(Swept::default()),
                Purgeable::Closed(generation) => return Ok(self.sweep(&generation).await?),
                Purgeable::Lost { last, to } => return Ok(self.sweep_lost(last.as_ref(), &to).await?),
                Purgeable::Open(chain) => chain,
            };
            let ship = match chain.acquire(identity.clone(), clock, beats, &on_wait).await {
                Ok(ship) => ship,
                // Another process of the same owner was faster, or another log.
                Err(AcquireError::Chain(ChainError::Refused(
                    Refused::Purged { .. } | Refused::Closed { .. } | Refused::OfAnotherLog { .. },
                ))) => continue,
                Err(error) => return Err(error.into()),
            };
            // The wait may have been long enough for another owner to come.
            if !matches!(self.look().await?, Purgeable::Open(_)) {
                let _ = ship.release().await;
                continue;
            }
            match ship.purge().await {
                Ok(_) | Err(PublishError::Fenced { .. } | PublishError::Refused(Refused::Purged { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the index off the register and deletes everything of the generations up to `last`, which is closed for good.
    ///
    /// An earlier generation is deleted only if its chain says that it is closed, and held this log's records.
    pub async fn sweep(&self, last: &Generation) -> Result<Swept, ChainError> {
        match self.root.purge_index(&self.name, &self.owner, last).await {
            Ok(()) => {}
            // It became another owner's: what is left of it is theirs.
            Err(ChainError::Refused(Refused::OwnedByAnother { .. })) => return Ok(Swept::default()),
            Err(error) => return Err(error),
        }
        self.sweep_up_to(last).await
    }

    /// Takes an index off the register that another log has, and deletes what is ours below the generation of that one.
    async fn sweep_lost(&self, last: Option<&Generation>, to: &Generation) -> Result<Swept, ChainError> {
        self.root.lose_index(&self.name, &self.owner, last, to).await?;
        match last {
            Some(last) => self.sweep_up_to(last).await,
            None => Ok(Swept::default()),
        }
    }

    async fn sweep_up_to(&self, last: &Generation) -> Result<Swept, ChainError> {
        let mut swept = Swept::default();
        let earlier = (1..last.number().unwrap_or_default()).map(Generation::numbered);
        for generation in earlier.chain([last.clone()]) {
            swept = swept.plus(self.sweep_generation(generation).await?);
        }
        Ok(swept)
    }

    async fn sweep_generation(&self, generation: Generation) -> Result<Swept, ChainError> {
        let chain = self.chain(generation.clone());
        let Some(latest) = chain.latest().await? else { return Ok(Swept::default()) };
        if latest.state.closed.is_none() && !planted(Fault::PurgeBeforeClosing) {
            return Ok(Swept::default());
        }
        if !self.is_ours(&latest.state).await? {
            return Ok(Swept::default());
        }
        // Before the first record goes: whoever slept finds his slot free, and then the boundary.
        let below = latest.number.saturating_sub(1);
        chain.chain().set_boundary(below).await?;
        let fates = Fates { generation, last: latest.number };
        let mut swept = Swept::default();
        for _ in 0..LOOKS {
            let seen = self.delete_listed(&fates).await?;
            swept = Swept { deleted: swept.deleted + seen.deleted, ..seen };
            if seen.deleted == 0 {
                break;
            }
        }
        Ok(swept)
    }

    /// Lists a generation once and deletes what may be deleted.
    async fn delete_listed(&self, fates: &Fates) -> Result<Swept, StoreError> {
        let mut seen = Swept::default();
        let mut pages = self.index.list(fates.generation.as_str(), None).try_chunks(CHUNK);
        while let Some(page) = pages.next().await {
            let mut doomed = Vec::new();
            for key in page.map_err(|failed| failed.1)?.into_iter().map(|object| object.key) {
                match fates.of(&key) {
                    Fate::Deleted => doomed.push(key),
                    Fate::Fence => seen.fences += 1,
                    Fate::Unknown => seen.unknown += 1,
                }
            }
            self.index.delete(&doomed).await?;
            seen.deleted += doomed.len() as u64;
        }
        Ok(seen)
    }
}

impl Swept {
    fn plus(self, other: Self) -> Self {
        Self {
            deleted: self.deleted + other.deleted,
            fences: self.fences + other.fences,
            unknown: self.unknown + other.unknown,
        }
    }
}

/// Decides about the objects of one generation that is closed.
struct Fates {
    generation: Generation,
    /// The number of its last record; the boundary is just below it.
    last: u64,
}

impl Fates {
    /// What becomes of the object `key`, below the index's URL. Only exact names of the catalog are ever deleted.
    fn of(&self, key: &str) -> Fate {
        let fate = if key.parse::<ObjectName>().is_ok_and(|name| name.generation == self.generation) {
            Fate::Deleted
        } else {
            let record = key.strip_prefix(self.generation.as_str()).and_then(|key| key.strip_prefix("/manifest/"));
            match record.and_then(ChainObject::of) {
                Some(ChainObject::Record(number)) => fate_below(number, self.last),
                Some(ChainObject::Boundary(number)) => fate_below(number, self.last.saturating_sub(1)),
                None => Fate::Unknown,
            }
        };
        match fate {
            Fate::Unknown if planted(Fault::PurgeByPrefix) => Fate::Deleted,
            Fate::Fence if planted(Fault::PurgeDropsFence) => Fate::Deleted,
            fate => fate,
        }
    }
}

fn fate_below(number: u64, fence: u64) -> Fate {
    match number.cmp(&fence) {
        std::cmp::Ordering::Less => Fate::Deleted,
        std::cmp::Ordering::Equal => Fate::Fence,
        std::cmp::Ordering::Greater => Fate::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ObjectKind;

    fn fates() -> Fates {
        Fates { generation: Generation::numbered(2), last: 9 }
    }

    #[test]
    fn exact_names_of_the_generation_are_deleted_and_the_fence_stays() {
        let object = ObjectName::new(&Generation::numbered(2), ObjectKind::Segment, 3, &Entropy::seeded(1));
        let record = |number: u64| format!("g2/manifest/{number:020}");
        let boundary = |number: u64| format!("g2/manifest/boundary/{number:020}");
        for key in [object.to_string(), record(1), record(8), boundary(3), boundary(7)] {
            assert_eq!(fates().of(&key), Fate::Deleted, "{key}");
        }
        for key in [record(9), boundary(8)] {
            assert_eq!(fates().of(&key), Fate::Fence, "{key}");
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
            assert_eq!(fates().of(&key), Fate::Unknown, "{key}");
        }
    }

    proptest! {
        /// Whatever lies beside or below an index, another index included, under any prefix: it stays.
        #[test]
        fn what_is_below_another_prefix_stays(prefix in "[a-z0-9/.-]{1,40}", number: u64, epoch: u64, kind: bool) {
            let kind = if kind { ObjectKind::Segment } else { ObjectKind::Sidecar };
            let object = ObjectName::new(&Generation::numbered(2), kind, epoch, &Entropy::seeded(number)).to_string();
            for own in [object, format!("g2/manifest/{number:020}"), format!("g2/manifest/boundary/{number:020}")] {
                prop_assert_eq!(fates().of(&format!("{prefix}/{own}")), Fate::Unknown);
                prop_assert_eq!(fates().of(&format!("{own}/{prefix}")), Fate::Unknown);
            }
        }

        #[test]
        fn any_key_that_is_deleted_is_a_name_of_the_catalog(key in "g2/(segment|sidecar|manifest|boundary|/|[0-9a-f-]{1,53}){1,5}") {
            if fates().of(&key) == Fate::Deleted {
                let record = key.strip_prefix("g2/manifest/").and_then(ChainObject::of);
                prop_assert!(key.parse::<ObjectName>().is_ok() || record.is_some());
            }
        }
    }
}
