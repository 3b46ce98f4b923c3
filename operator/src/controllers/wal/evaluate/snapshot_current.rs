//! `SnapshotCurrent`: the newest verified snapshot is as new as the schedule asks for.

use kube::ResourceExt as _;
use tidemark_crds::{Reason, TaskType};

use super::protection::{GRACE, ProtectionInputs, message};
use crate::condition_value::ConditionValue;

pub(crate) fn evaluate(protection: &ProtectionInputs<'_>) -> ConditionValue {
    let schedule = &protection.schedule;
    let last = schedule.status.last_snapshot.as_ref();
    let newest = match last {
        Some(last) => format!("the newest verified snapshot is \"{}\" of {}", last.name, last.time.0),
        None => "there is no verified snapshot".to_owned(),
    };
    if schedule.schedules.snapshots.is_none() {
        return ConditionValue::no(
            Reason::NotScheduled,
            format!(
                "no schedule takes snapshots, and {newest}; nothing can be restored; set \"spec.snapshots\": {{}}, which takes one a day"
            ),
        );
    }
    let rejected = protection.rejected_task(TaskType::Snapshot);
    if let Some(task) = rejected.or_else(|| protection.failed_task(TaskType::Snapshot)) {
        return ConditionValue::no(
            Reason::SnapshotFailed,
            format!("task \"{}\" took no snapshot: {}; {newest}", task.name_any(), message(task)),
        );
    }
    if last.is_some() && schedule.is_covered(protection.now) {
        return ConditionValue::yes(Reason::SnapshotCurrent, format!("{newest}, and the index has not changed since"));
    }
    match (lateness(protection), last) {
        (Some(why), _) => ConditionValue::no(
            Reason::SnapshotOverdue,
            format!("{newest}, and {why}; what came since is in the log alone; see \"kubectl tidemark tasks\""),
        ),
        (None, Some(_)) => ConditionValue::yes(Reason::SnapshotCurrent, newest),
        (None, None) => ConditionValue::unknown(
            Reason::Pending,
            "there is no snapshot yet, and none was due; \"kubectl tidemark snapshot\" takes one now",
        ),
    }
}

fn lateness(protection: &ProtectionInputs<'_>) -> Option<String> {
    let schedule = &protection.schedule;
    let snapshots = schedule.schedules.snapshots.as_ref()?;
    if schedule.index.is_none_or(|index| index.entries == 0) {
        return None;
    }
    let last = schedule.status.last_snapshot.as_ref().map(|last| last.time.0);
    let by_age = || {
        let old_at = last.unwrap_or(schedule.created).checked_add(snapshots.after_age?).ok()?;
        let is_idle = schedule.tasks.active(TaskType::Snapshot).is_none();
        let is_late = is_idle && old_at.checked_add(GRACE).is_ok_and(|late| late <= protection.now);
        is_late.then(|| {
            format!("one was due at {old_at}, and {}", protection.blocked.unwrap_or("no task was made for it"))
        })
    };
    protection.lateness(TaskType::Snapshot, snapshots.cron.as_ref(), last).or_else(by_age)
}
