//! What a collector knows of an index's garbage, and what follows from what it sees: pure functions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemark_store::{ChainState, InvariantViolation, StoreSecond};

use crate::{
    error::TransactionRejected,
    mutants,
    names::{Generation, ObjectName},
};

/// For how long an object must have been seen unreferenced before it is deleted, by the index's store time. A constant of the
/// format: readers rely on it, each drops a manifest half of it after its successor.
pub const GARBAGE_GRACE: std::time::Duration = std::time::Duration::from_hours(24);
/// How many candidates a state holds at most; the others wait until these are deleted.
pub const MAX_GARBAGE_CANDIDATES: usize = 10_000;

/// The state of the collectors' chain: `<index>/gc/<log id>/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GarbageState {
    /// The number of the pass; a higher one fences every lower one.
    pub epoch: u64,
    /// Who makes the pass: for people.
    pub collector: String,
    /// Objects that were unreferenced in every pass since, by key.
    pub candidates: BTreeMap<String, GarbageCandidate>,
}

/// An object that may be deleted after the grace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GarbageCandidate {
    /// Store time of the record that first named it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<StoreSecond>,
}

impl ChainState for GarbageState {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        for candidate in self.candidates.values_mut() {
            candidate.since.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(
            self.candidates.len() <= MAX_GARBAGE_CANDIDATES,
            "the number of candidates is bounded",
            || format!("{} candidates", self.candidates.len()),
        )
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(before.epoch <= self.epoch, "nothing goes back", || {
            format!("the epoch from {} to {}", before.epoch, self.epoch)
        })?;
        let moved = before
            .candidates
            .iter()
            .find(|(key, candidate)| self.candidates.get(*key).is_some_and(|after| after.since != candidate.since));
        InvariantViolation::unless(moved.is_none(), "a candidate keeps its date", || {
            format!("{moved:?} has another one")
        })
    }
}

impl GarbageState {
    /// The next pass, by `collector`. Every earlier one is fenced.
    pub(crate) fn begin_pass(&self, collector: &str) -> Self {
        Self {
            epoch: self.epoch.saturating_add(1),
            collector: collector.to_owned(),
            candidates: self.candidates.clone(),
        }
    }

    /// The end of the pass `epoch`.
    pub(crate) fn end_pass(
        &self,
        epoch: u64,
        candidates: &BTreeMap<String, GarbageCandidate>,
    ) -> Result<Self, TransactionRejected> {
        if mutants::is_own_pass(self.epoch == epoch) {
            Ok(Self { candidates: candidates.clone(), ..self.clone() })
        } else {
            Err(TransactionRejected::Fenced { epoch, by: self.epoch })
        }
    }
}

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

/// What must not be deleted, read after the listing.
#[derive(Debug, Default)]
pub(crate) struct GarbageRoots {
    /// Objects that a manifest or a pin names.
    pub(crate) named: BTreeSet<String>,
    /// The generations that have a chain.
    pub(crate) generations: BTreeMap<Generation, GenerationFate>,
}

impl GarbageRoots {
    /// Whether nothing names this object, and nothing ever will.
    fn is_garbage(&self, key: &str, name: &ObjectName) -> bool {
        let fate = self.generations.get(&name.generation);
        let settled = match fate {
            Some(GenerationFate::Open { epoch }) => mutants::is_of_past_epoch(name.epoch < *epoch),
            Some(GenerationFate::Closed) => true,
            // A generation without a chain may be one that begins right now.
            Some(GenerationFate::Foreign) | None => false,
        };
        settled && !self.named.contains(key)
    }
}

/// What a pass does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GarbagePlan {
    /// To delete now.
    pub(crate) due: Vec<String>,
    /// The candidates that stay, those of this pass without a date.
    pub(crate) candidates: BTreeMap<String, GarbageCandidate>,
    /// Garbage that found no place among the candidates.
    pub(crate) waiting: u64,
    /// Objects whose names are not the catalog's. They stay.
    pub(crate) unknown: u64,
}

impl GarbagePlan {
    /// What follows for the objects that were `listed`, with their store times: `now` is the index's store time when the pass
    /// began, `before` the candidates of earlier passes, `roots` what was read after the listing.
    pub(crate) fn new<'a>(
        listed: impl IntoIterator<Item = (&'a str, StoreSecond)>,
        before: &BTreeMap<String, GarbageCandidate>,
        roots: &GarbageRoots,
        now: StoreSecond,
    ) -> Self {
        let mut plan = Self::default();
        let mut fresh = Vec::new();
        for (key, created) in listed {
            let Ok(name) = key.parse::<ObjectName>() else {
                plan.unknown += 1;
                continue;
            };
            if !roots.is_garbage(key, &name) {
                continue;
            }
            let Some(candidate) = before.get(key) else {
                fresh.push(key);
                continue;
            };
            let since = mutants::garbage_since(candidate.since, created);
            if since.is_some_and(|since| since.after(GARBAGE_GRACE) <= now) {
                plan.due.push(key.to_owned());
            } else {
                plan.candidates.insert(key.to_owned(), *candidate);
            }
        }
        for key in fresh {
            if plan.due.len() + plan.candidates.len() < MAX_GARBAGE_CANDIDATES {
                plan.candidates.insert(key.to_owned(), GarbageCandidate::default());
            } else {
                plan.waiting += 1;
            }
        }
        plan
    }
}
