//! What the collectors of an index know: the state of their chain, and its transactions as pure functions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond};

use crate::{
    error::TransactionRejected,
    garbage_list::{GarbageList, MAX_LIST_CANDIDATES},
    identity::LogId,
    mutants,
    names::{Generation, generation_of_list},
};

/// How often a pass lists every generation. Between, closed ones without candidates are left out: an index that was rebuilt
/// many times costs as much an hour as a young one.
const FULL_PASS_INTERVAL: std::time::Duration = std::time::Duration::from_hours(24);
/// How many candidates a state's lists name at most, in all. What is beyond waits until some are deleted.
pub const MAX_GARBAGE_CANDIDATES: u64 = 2_000_000;
/// How many lists a state names at most.
pub const MAX_GARBAGE_LISTS: u64 = 1_000;

/// The state of the collectors' chain: `<index>/gc/<log id>/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CollectorState {
    /// The log on whose behalf the collectors work: a folder that was copied is refused.
    pub log: LogId,
    /// The number of the pass; a higher one fences every lower one.
    pub epoch: u64,
    /// Who makes the pass: for people.
    pub collector: String,
    /// How many generations from `g1` on are closed: nothing follows the last record of any of them.
    pub ended: u64,
    /// The generations after them that are not closed, and that a gap parts from them: the index was lost and made again as a later one. Each
    /// pass lists them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub beyond: BTreeSet<Generation>,
    /// Store time of the last pass that listed every generation; absent before the first one, and after one that left garbage
    /// waiting: the next one lists them all again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub full_pass: Option<StoreSecond>,
    /// The lists of objects that were unreferenced in every pass since, by name: `{generation}/{32 hexadecimal digits}`.
    pub lists: BTreeMap<String, GarbageList>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

impl ChainState for CollectorState {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        for list in self.lists.values_mut() {
            list.since.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let lists = self.lists.len() as u64;
        InvariantViolation::unless(lists <= MAX_GARBAGE_LISTS, "the number of lists is bounded", || {
            format!("{lists} lists")
        })?;
        let keys = self.lists.values().fold(0_u64, |keys, list| keys.saturating_add(list.keys));
        InvariantViolation::unless(keys <= MAX_GARBAGE_CANDIDATES, "the number of candidates is bounded", || {
            format!("{keys} candidates")
        })?;
        let is_sound = |(name, list): (&String, &GarbageList)| {
            generation_of_list(name).is_some() && (1..=MAX_LIST_CANDIDATES).contains(&list.keys)
        };
        let unsound = self.lists.iter().find(|list| !is_sound(*list));
        InvariantViolation::unless(
            unsound.is_none(),
            "a list bears its generation and is neither empty nor too long",
            || format!("{unsound:?}"),
        )
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(before.log == self.log, "the log never changes", || {
            format!("{} after {}", self.log, before.log)
        })?;
        InvariantViolation::unless(before.epoch <= self.epoch, "nothing goes back", || {
            format!("the epoch from {} to {}", before.epoch, self.epoch)
        })?;
        InvariantViolation::unless(before.ended <= self.ended, "a closed generation stays closed", || {
            format!("{} are closed, {} were", self.ended, before.ended)
        })?;
        let changed =
            before.lists.iter().find(|(name, list)| self.lists.get(*name).is_some_and(|after| after != *list));
        InvariantViolation::unless(changed.is_none(), "a list keeps its date and its keys", || {
            format!("{changed:?} is another one")
        })?;
        let undated = self.lists.iter().find(|(name, list)| {
            let replaces = |(other, replaced): (&String, &GarbageList)| {
                !self.lists.contains_key(other)
                    && generation_of_list(other) == generation_of_list(name)
                    && replaced.since == list.since
            };
            list.since.is_some() && !before.lists.contains_key(*name) && !before.lists.iter().any(replaces)
        });
        InvariantViolation::unless(undated.is_none(), "a new list has no date but that of one that it replaces", || {
            format!("{undated:?}")
        })
    }
}

impl CollectorState {
    /// The first state, without candidates, of the collectors of `log`.
    pub(crate) fn new(log: LogId) -> Self {
        Self {
            log,
            epoch: 0,
            collector: String::new(),
            lists: BTreeMap::new(),
            ended: 0,
            beyond: BTreeSet::new(),
            full_pass: None,
            ext: StateExtensions::NONE,
        }
    }

    /// The next pass, by `collector`. Every earlier one is fenced.
    pub(crate) fn begin_pass(&self, collector: &str) -> Self {
        Self { epoch: self.epoch.saturating_add(1), collector: collector.to_owned(), ..self.clone() }
    }

    /// What a pass that began with this state at `now` lists. `wants_all`: whatever passes before it listed.
    pub(crate) fn scope(&self, now: StoreSecond, wants_all: bool) -> PassScope {
        let is_due = self.full_pass.is_none_or(|last| last.after(FULL_PASS_INTERVAL) <= now);
        let ended = if wants_all || is_due {
            (1..=self.ended).map(Generation::numbered).collect()
        } else {
            self.lists.keys().filter_map(|name| generation_of_list(name)).collect()
        };
        PassScope { is_full: wants_all || is_due, ended }
    }

    /// The end of the pass `epoch`.
    pub(crate) fn end_pass(&self, epoch: u64, outcome: &PassOutcome) -> Result<Self, TransactionRejected> {
        if !mutants::is_own_pass(self.epoch == epoch) {
            return Err(TransactionRejected::Fenced { epoch, by: self.epoch });
        }
        Ok(Self {
            ended: outcome.ended.max(self.ended),
            beyond: outcome.beyond.clone(),
            full_pass: outcome.full_pass,
            lists: outcome.lists.clone(),
            ..self.clone()
        })
    }
}

/// Which of the closed generations a pass lists; those that take publications it lists always, but for those that only a full pass finds.
///
/// A closed generation without garbage needs no look: nothing becomes part of it, and its objects are those that pins name. What
/// comes afterwards, from a writer that was suspended with an upload on its way or from a pin that is dropped, waits for the
/// next full pass. A generation that is not listed loses nothing: only what was listed is deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PassScope {
    /// Whether it lists all of them.
    pub(crate) is_full: bool,
    /// Those that it lists.
    pub(crate) ended: BTreeSet<Generation>,
}

/// What a pass leaves to the next one.
#[derive(Debug)]
pub(crate) struct PassOutcome {
    /// How many generations from `g1` on are closed.
    pub(crate) ended: u64,
    /// Those after them that are open behind a gap.
    pub(crate) beyond: BTreeSet<Generation>,
    /// The last pass that listed every generation, if none has to be made at once.
    pub(crate) full_pass: Option<StoreSecond>,
    /// What it found unreferenced and left.
    pub(crate) lists: BTreeMap<String, GarbageList>,
}
