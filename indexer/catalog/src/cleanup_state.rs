//! What the clean-ups of a log know: the state of their chain, and its transactions as pure functions.

use serde::{Deserialize, Serialize};
use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond};

use crate::{error::TransactionRejected, identity::LogId, log_cursor::LogCursor, snapshot_proof::ArchiveExtent};

/// What a clean-up is about to delete. It is recorded before anything is deleted.
///
/// It names no entries: those go that the archive's version has and the log has byte for byte, in the seconds below `to`. So a plan is as
/// small for ten million entries as for one, and a process that continues it decides the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CleanupPlan {
    /// Store time of the record that has it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub made: Option<StoreSecond>,
    /// Entries of the seconds below it may go.
    pub to: LogCursor,
    /// Where the log's floor has to be before the first of them goes: at or above `to`.
    pub floor: LogCursor,
    /// URL of the archive.
    pub archive: String,
    /// The archive's version in which each entry is read before it goes.
    pub extent: ArchiveExtent,
    /// The verified snapshot that vouches for it.
    pub snapshot: String,
}

/// The state of the clean-ups' chain: `<index>/cleanup/<log id>/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CleanupState {
    /// The log that is cleaned up: a folder that was copied is refused.
    pub log: LogId,
    /// The number of the clean-up; a higher one fences every lower one.
    pub epoch: u64,
    /// Who cleans up: for people.
    pub cleaner: String,
    /// What is being deleted; absent once that is through.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<CleanupPlan>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

impl ChainState for CleanupState {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        if let Some(plan) = &mut self.plan {
            plan.made.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let unsound = self.plan.as_ref().filter(|plan| plan.to > plan.floor || plan.floor > plan.extent.end);
        InvariantViolation::unless(unsound.is_none(), "a plan stays below the floor, and that in the archive", || {
            format!("{unsound:?}")
        })
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(before.log == self.log, "the log never changes", || {
            format!("{} after {}", self.log, before.log)
        })?;
        InvariantViolation::unless(before.epoch <= self.epoch, "nothing goes back", || {
            format!("the epoch from {} to {}", before.epoch, self.epoch)
        })?;
        let is_next = before.epoch < self.epoch || self.plan.is_none() || self.plan == before.plan;
        InvariantViolation::unless(is_next, "a clean-up has one plan", || {
            format!("{:?} after {:?}", self.plan, before.plan)
        })
    }
}

impl CleanupState {
    /// The first state, of a log that was never cleaned up.
    pub(crate) fn new(log: LogId) -> Self {
        Self { log, epoch: 0, cleaner: String::new(), plan: None, ext: StateExtensions::NONE }
    }

    /// The next clean-up, by `cleaner`. Every earlier one is fenced, and what it left is this one's.
    pub(crate) fn begin(&self, cleaner: &str, plan: &CleanupPlan) -> Self {
        let plan = Some(CleanupPlan { made: None, ..plan.clone() });
        Self { epoch: self.epoch.saturating_add(1), cleaner: cleaner.to_owned(), plan, ..self.clone() }
    }

    /// The end of the clean-up `epoch`; `None` if it has ended.
    pub(crate) fn end(&self, epoch: u64) -> Result<Option<Self>, TransactionRejected> {
        if self.epoch != epoch {
            return Err(TransactionRejected::Fenced { epoch, by: self.epoch });
        }
        Ok(self.plan.is_some().then(|| Self { plan: None, ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix: u64) -> LogCursor {
        LogCursor(StoreSecond::from_unix(unix))
    }

    fn plan(to: u64, floor: u64, end: u64) -> CleanupPlan {
        let extent = ArchiveExtent { version: 1, hash: "ab".repeat(32), end: at(end) };
        let (archive, snapshot) = ("s3://b/archive".to_owned(), "daily".to_owned());
        CleanupPlan { made: None, to: at(to), floor: at(floor), archive, extent, snapshot }
    }

    /// What a chain makes of a step.
    fn recorded(before: &CleanupState, next: CleanupState) -> CleanupState {
        next.check_state().and_then(|()| next.check_transition(before)).unwrap();
        let mut next = next;
        next.apply_store_time(StoreSecond::from_unix(77));
        next
    }

    #[test]
    fn a_later_cleanup_fences_an_earlier_one_and_has_its_own_plan() {
        let empty = CleanupState::new(LogId("log".to_owned()));
        let first = recorded(&empty, empty.begin("a", &plan(5, 6, 7)));
        assert_eq!(first.plan.as_ref().and_then(|plan| plan.made), Some(StoreSecond::from_unix(77)));
        let second = recorded(&first, first.begin("b", first.plan.as_ref().unwrap()));
        assert_eq!((second.epoch, second.cleaner.as_str()), (2, "b"));
        assert_eq!(second.end(1), Err(TransactionRejected::Fenced { epoch: 1, by: 2 }));
        let ended = recorded(&second, second.end(2).unwrap().unwrap());
        assert_eq!((ended.plan.clone(), ended.end(2)), (None, Ok(None)));
        let changed = CleanupState { plan: Some(plan(4, 6, 7)), ..first.clone() };
        assert!(changed.check_transition(&first).is_err(), "a plan is never another one");
    }

    #[test]
    fn a_plan_stays_below_the_floor_and_in_the_archive() {
        let empty = CleanupState::new(LogId("log".to_owned()));
        for unsound in [plan(7, 6, 8), plan(5, 9, 8)] {
            assert!(empty.begin("a", &unsound).check_state().is_err(), "{unsound:?}");
        }
    }
}
