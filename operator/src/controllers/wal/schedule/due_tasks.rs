//! What is due: a pure function of the schedules, of what ran before, of what the index holds, and of the operator's clock.
//!
//! The clock decides when something runs, never what: a snapshot holds what the catalog says, and a cleanup deletes what the log's
//! own times allow.
//!
//! Each schedule remembers up to when it is done with. What was due since, once or several times, is one slot: the last. A slot is
//! done with when its task was made, when another task of the same type runs then, or when there is nothing to do. It is not done with
//! while the WAL may run nothing: the caller asks again later.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tidemark_crds::{CronSchedule, ScheduleStatus, TaskType, WalStatus, WalTask, WalTaskState};

use super::{
    task_history::{IndexFigures, TaskHistory, created_at, ended_at, index_figures, state},
    task_results::last_verification,
};
use crate::controllers::wal::validate::{ValidatedSchedules, ValidatedSnapshots};

/// Bounds of entries, bytes and age ask for no snapshot so soon after one that succeeded.
const MIN_INTERVAL: SignedDuration = SignedDuration::from_mins(10);
/// Nor so soon after one that did not.
const RETRY_INTERVAL: SignedDuration = SignedDuration::from_hours(1);
/// A collection deletes what one saw that is this much earlier: objects are kept for a day.
const COLLECTION_TIME: SignedDuration = SignedDuration::from_hours(25);

/// What decides what is due, beside the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScheduleInputs<'a> {
    pub(crate) schedules: &'a ValidatedSchedules,
    pub(crate) tasks: &'a TaskHistory,
    /// The status as it was written last.
    pub(crate) status: &'a WalStatus,
    /// What the index holds, if that is known.
    pub(crate) index: Option<&'a IndexFigures>,
    /// When the WAL was made.
    pub(crate) created: Timestamp,
}

/// A task that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueTask {
    pub(crate) r#type: TaskType,
    /// Since when, to the minute. It names the task.
    pub(crate) slot: Timestamp,
}

/// What the schedules say now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScheduleOutlook {
    pub(crate) due: Vec<DueTask>,
    /// When something may be due next, if that is known.
    pub(crate) next: Option<Timestamp>,
    /// Up to when the schedules are done with, without the tasks that are due.
    pub(crate) done: ScheduleStatus,
}

/// One schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SlotOutlook {
    due: Option<Timestamp>,
    next: Option<Timestamp>,
    done: Option<Timestamp>,
}

/// What the index holds, compared with the snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotCoverage {
    /// Something that no snapshot holds.
    Changed,
    /// Nothing that the last snapshot does not hold. But some of it was not settled then: the archive lacks it until a snapshot is
    /// taken after this time.
    Unsettled(Timestamp),
    /// Nothing that snapshot and archive do not hold.
    Complete,
}

impl ScheduleInputs<'_> {
    /// What is due, when to look again, and what needs no more looking.
    pub(crate) fn outlook(&self, now: Timestamp) -> ScheduleOutlook {
        let (snapshot, verification) = (self.snapshot(now), self.verification(now));
        let cleanup = self.cleanup(now, snapshot.due.is_some());
        let gc = self.collection(now);
        let types = [
            (TaskType::Snapshot, snapshot),
            (TaskType::Cleanup, cleanup),
            (TaskType::Verify, verification),
            (TaskType::GC, gc),
        ];
        let due = types.iter().filter_map(|(r#type, outlook)| Some(DueTask { r#type: *r#type, slot: outlook.due? }));
        let time = |outlook: SlotOutlook| outlook.done.map(Time);
        ScheduleOutlook {
            due: due.collect(),
            next: types.iter().filter_map(|(_, outlook)| outlook.next).filter(|next| *next > now).min(),
            done: ScheduleStatus {
                snapshot: time(snapshot),
                cleanup: time(cleanup),
                verify: time(verification),
                gc: time(gc),
            },
        }
    }

    /// Whether the index holds nothing that the last snapshot lacks.
    pub(crate) fn is_covered(&self, now: Timestamp) -> bool {
        match self.index.map(|index| self.coverage(index)) {
            Some(SnapshotCoverage::Changed) | None => false,
            Some(SnapshotCoverage::Unsettled(until)) => now < until,
            Some(SnapshotCoverage::Complete) => true,
        }
    }

    fn snapshot(&self, now: Timestamp) -> SlotOutlook {
        let Some(snapshots) = &self.schedules.snapshots else { return SlotOutlook::default() };
        let mut outlook = self.slots(TaskType::Snapshot, snapshots.cron.as_ref(), now);
        let Some(index) = self.index.filter(|_| self.tasks.active(TaskType::Snapshot).is_none()) else {
            // What the index holds is not known, or a snapshot is being taken: that ends, and is a reason to look again.
            return outlook.waiting();
        };
        let coverage = self.coverage(index);
        let nothing_to_do = index.entries == 0
            || match coverage {
                SnapshotCoverage::Complete => true,
                SnapshotCoverage::Unsettled(until) => now < until,
                SnapshotCoverage::Changed => false,
            };
        if nothing_to_do {
            return outlook.skipped();
        }
        let (is_over, next) = self.bounds(snapshots, index, now);
        if is_over && outlook.due.is_none() {
            outlook.due = Some(minute(now));
        }
        outlook.next = outlook.next.into_iter().chain(next).min();
        outlook
    }

    /// Whether one of the bounds asks for a snapshot now, and when one may do so if nothing changes.
    fn bounds(
        &self,
        snapshots: &ValidatedSnapshots,
        index: &IndexFigures,
        now: Timestamp,
    ) -> (bool, Option<Timestamp>) {
        let last = self.tasks.succeeded(TaskType::Snapshot).find_map(index_figures);
        let last = last.filter(|last| last.generation == index.generation);
        let (entries, bytes) = last.map_or((0, 0), |last| (last.entries, last.bytes));
        let grew =
            |bound: Option<u64>, now: u64, then: u64| bound.is_some_and(|bound| now.saturating_sub(then) >= bound);
        let newest = self.status.last_snapshot.as_ref().map_or(self.created, |last| last.time.0);
        let old_at = snapshots.after_age.and_then(|age| newest.checked_add(age).ok());
        let is_over = grew(snapshots.after_entries, index.entries, entries)
            || grew(snapshots.after_bytes, index.bytes, bytes)
            || old_at.is_some_and(|old_at| old_at <= now);
        let spaced = self.tasks.ended(TaskType::Snapshot).next().and_then(|task| {
            let interval = if state(task) == Some(WalTaskState::Succeeded) { MIN_INTERVAL } else { RETRY_INTERVAL };
            ended_at(task)?.checked_add(interval).ok()
        });
        match spaced.filter(|spaced| *spaced > now) {
            Some(spaced) if is_over => (false, Some(spaced)),
            _ => (is_over, old_at),
        }
    }

    fn coverage(&self, index: &IndexFigures) -> SnapshotCoverage {
        let is_same =
            |figures: &IndexFigures| (&figures.generation, figures.entries) == (&index.generation, index.entries);
        // What a user's snapshot found in the index is not known.
        let counted =
            self.tasks.succeeded(TaskType::Snapshot).filter_map(|task| Some((created_at(task), index_figures(task)?)));
        let mut counted = counted.peekable();
        if counted.peek().is_none() {
            let last = self.status.last_snapshot.as_ref();
            let last =
                last.filter(|last| last.entries.and_then(|entries| u64::try_from(entries).ok()) == Some(index.entries));
            return last.map_or(SnapshotCoverage::Changed, |last| self.unsettled(last.time.0));
        }
        let same: Vec<_> = counted.take_while(|(_, figures)| is_same(figures)).map(|(created, _)| created).collect();
        match (same.first(), same.last()) {
            (Some(newest), Some(first)) if newest.duration_since(*first) >= self.schedules.settling => {
                SnapshotCoverage::Complete
            }
            (_, Some(first)) => self.unsettled(*first),
            (_, None) => SnapshotCoverage::Changed,
        }
    }

    fn unsettled(&self, first: Timestamp) -> SnapshotCoverage {
        SnapshotCoverage::Unsettled(first.checked_add(self.schedules.settling).unwrap_or(Timestamp::MAX))
    }

    /// Whether a verified snapshot is known.
    pub(crate) fn has_verified_snapshot(&self) -> bool {
        // A task succeeds only once its snapshot is verified, and the status that names it is written after this.
        self.status.last_snapshot.as_ref().is_some_and(|last| last.verified)
            || self.tasks.succeeded(TaskType::Snapshot).next().is_some()
    }

    fn cleanup(&self, now: Timestamp, snapshot_is_due: bool) -> SlotOutlook {
        let outlook = self.slots(TaskType::Cleanup, self.schedules.cleanup.as_ref(), now);
        if snapshot_is_due
            || [TaskType::Snapshot, TaskType::Cleanup].iter().any(|r#type| self.tasks.active(*r#type).is_some())
        {
            // After the snapshot there is more to delete.
            outlook.waiting()
        } else if self.is_damaged() {
            // The log may be the last that has what is lost.
            outlook.waiting()
        } else if !self.has_verified_snapshot() || self.is_clean() {
            outlook.skipped()
        } else {
            outlook
        }
    }

    /// Whether index or archive are known to be damaged.
    fn is_damaged(&self) -> bool {
        let last = last_verification(self.status.last_verification.as_ref(), self.tasks);
        last.is_some_and(|last| last.is_damaged())
    }

    /// Whether the last cleanup left nothing in the log, and nothing came since.
    fn is_clean(&self) -> bool {
        let Some(last) = self.tasks.succeeded(TaskType::Cleanup).next() else { return false };
        let left = last.status.as_ref().and_then(|status| status.result.as_ref()?.held_back);
        left == Some(0) && index_figures(last).is_some_and(|figures| Some(&figures) == self.index)
    }

    /// Also of an index that has not changed: what it looks for is what becomes of stored objects.
    fn verification(&self, now: Timestamp) -> SlotOutlook {
        let Some(verification) = &self.schedules.verification else { return SlotOutlook::default() };
        let outlook = self.slots(TaskType::Verify, verification.cron.as_ref(), now);
        if self.tasks.active(TaskType::Verify).is_some() {
            outlook.waiting()
        } else if self.status.generation.is_none() {
            outlook.skipped()
        } else {
            outlook
        }
    }

    fn collection(&self, now: Timestamp) -> SlotOutlook {
        let outlook = self.slots(TaskType::GC, self.schedules.gc.as_ref(), now);
        if self.tasks.active(TaskType::GC).is_some() {
            outlook.waiting()
        } else if self.status.generation.is_none() || self.has_no_garbage(now) {
            outlook.skipped()
        } else {
            outlook
        }
    }

    /// Whether a collection has found the index as it is now and no other task has left anything since. What it saw is deleted by one
    /// that is so much later: until then, and after that one, there is nothing to delete.
    fn has_no_garbage(&self, now: Timestamp) -> bool {
        let Some(index) = self.index else { return false };
        let written = self.tasks.last_written(TaskType::GC);
        let is_of_present = |task: &&WalTask| {
            index_figures(task).as_ref() == Some(index) && written.is_none_or(|written| written < created_at(task))
        };
        let same: Vec<_> = self.tasks.succeeded(TaskType::GC).take_while(is_of_present).map(created_at).collect();
        same.first().zip(same.last()).is_some_and(|(newest, first)| {
            let has_deleted = newest.duration_since(*first) >= COLLECTION_TIME;
            has_deleted || now.duration_since(*first) < COLLECTION_TIME
        })
    }

    /// The slots of a schedule, as if there were always something to do.
    fn slots(&self, r#type: TaskType, cron: Option<&CronSchedule>, now: Timestamp) -> SlotOutlook {
        let Some(cron) = cron else { return SlotOutlook::default() };
        let done = schedule_done(self.status.schedules.as_ref(), r#type);
        // What was due before the schedule was there is nothing that was missed.
        let Some(done) = done else { return SlotOutlook { due: None, next: cron.next_after(now), done: Some(now) } };
        let from = done.max(self.tasks.done_until(r#type).unwrap_or(done));
        SlotOutlook { due: cron.last_between(from, now), next: cron.next_after(now), done: Some(done) }
    }
}

impl SlotOutlook {
    /// Nothing can be said of the slot now.
    fn waiting(self) -> Self {
        Self { due: None, ..self }
    }

    /// There is nothing to do at the slot.
    fn skipped(self) -> Self {
        Self { due: None, done: self.due.or(self.done), ..self }
    }
}

/// Up to when a schedule is done with.
pub(crate) fn schedule_done(status: Option<&ScheduleStatus>, r#type: TaskType) -> Option<Timestamp> {
    let ScheduleStatus { snapshot, cleanup, verify, gc } = status?;
    let done = match r#type {
        TaskType::Snapshot => snapshot,
        TaskType::Cleanup => cleanup,
        TaskType::Verify => verify,
        TaskType::GC => gc,
        TaskType::Reindex | TaskType::Restore | TaskType::Promote => &None,
    };
    done.as_ref().map(|time| time.0)
}

/// The minute of an instant.
fn minute(instant: Timestamp) -> Timestamp {
    let second = instant.as_second();
    Timestamp::from_second(second - second.rem_euclid(60)).unwrap_or(instant)
}
