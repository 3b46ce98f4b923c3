//! Which objects are referenced: by a manifest, by a pin, or by what an open generation may still publish. The others are garbage.

use std::collections::{BTreeMap, BTreeSet};

use crate::{garbage_list::GarbageKey, identity::LogId, manifest::Manifest, mutants, names::Generation};

/// What a generation's chain says of the objects that bear its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GenerationFate {
    /// It takes publications by writers of this epoch: objects of lower epochs can never become part of it.
    Open {
        /// The epoch in force.
        epoch: u64,
    },
    /// It is closed: nothing becomes part of it, and its last manifest is no root.
    Closed,
    /// It is another log's: its objects are not ours to delete.
    Foreign,
}

impl GenerationFate {
    /// That of the generation whose latest manifest this is, for the collectors of `log`.
    pub(crate) fn of(latest: &Manifest, log: &LogId) -> Self {
        match latest {
            state if !state.belongs_to_log(Some(log)) => Self::Foreign,
            state if state.closed.is_some() => Self::Closed,
            Manifest { epoch, .. } => Self::Open { epoch: *epoch },
        }
    }
}

/// What must not be deleted, read after the listing.
#[derive(Debug, Default)]
pub(crate) struct ReferencedObjects {
    /// Objects that a manifest or a pin names.
    pub(crate) named: BTreeSet<String>,
    /// The generations that have a chain.
    pub(crate) generations: BTreeMap<Generation, GenerationFate>,
    /// Those whose last record closed them when it was read first, of any log.
    pub(crate) closed: BTreeSet<Generation>,
}

impl ReferencedObjects {
    /// How many generations from `g1` on are closed, where the first `ended` are known to be.
    pub(crate) fn ended_after(&self, ended: u64) -> u64 {
        let closed = |number: &u64| self.closed.contains(&Generation::numbered(*number));
        (ended + 1..=u64::MAX).take_while(closed).last().unwrap_or(ended)
    }

    /// The generations that are not closed and that no unbroken sequence after the first `ended` ones leads to.
    pub(crate) fn open_beyond(&self, ended: u64) -> BTreeSet<Generation> {
        let is_present = |number: &u64| self.generations.contains_key(&Generation::numbered(*number));
        let reached = (ended + 1..=u64::MAX).take_while(is_present).last().unwrap_or(ended);
        let open = self.generations.keys().filter(|generation| !self.closed.contains(*generation));
        open.filter(|generation| generation.number() > reached).cloned().collect()
    }

    /// Whether nothing names this object, and nothing ever will.
    pub(crate) fn is_garbage(&self, generation: &Generation, key: &GarbageKey) -> bool {
        let settled = match self.generations.get(generation) {
            Some(GenerationFate::Open { epoch }) => mutants::is_of_past_epoch(key.epoch < *epoch),
            Some(GenerationFate::Closed) => true,
            // A generation without a chain may be one that begins right now.
            Some(GenerationFate::Foreign) | None => false,
        };
        settled && !self.named.contains(&key.in_generation(generation))
    }
}
