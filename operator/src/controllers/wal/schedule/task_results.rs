//! What the results of tasks say of a WAL, for its status: from all tasks that exist, whatever was seen before.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tidemark_crds::{
    CleanupStatus, DamageStatus, LogSizeStatus, RecoveryWindowStatus, RestoreStatus, SnapshotStatus, TaskFigures,
    TaskType, VerificationStatus, VerifyTask, WalStatus, WalTask, WalTaskState,
};

use super::task_history::{TaskHistory, damaged, ended_at, index_figures, started_at, state};

/// Takes the results into the status. One of a task that is gone stays until a newer one is there.
pub(crate) fn apply_results(status: &mut WalStatus, tasks: &TaskHistory) {
    // A task that names a snapshot which is there already takes none: that one is as old as before.
    let taken = tasks.succeeded(TaskType::Snapshot);
    let taken = taken.filter_map(|task| Some((task, result(task).snapshot_time.or_else(|| ended_at(task))?)));
    if let Some((task, time)) = taken.max_by_key(|(_, time)| *time)
        && is_newer(time, status.last_snapshot.as_ref().map(|last| &last.time))
    {
        status.last_snapshot = Some(snapshot(task, time));
    }
    let mut cleanups = tasks.succeeded(TaskType::Cleanup).filter(|task| !is_dry_run(task));
    if let Some((task, time)) = cleanups.find_map(|task| Some((task, ended_at(task)?)))
        && is_newer(time, status.last_cleanup.as_ref().map(|last| &last.time))
    {
        let result = result(task);
        status.last_cleanup = Some(CleanupStatus {
            time: Time(time),
            deleted_entries: result.deleted_entries.and_then(api_number),
            deleted_bytes: result.deleted_bytes.and_then(api_number),
        });
    }
    if let Some(counted) = log_size(tasks)
        && is_newer(counted.time.0, status.log_size.as_ref().map(|last| &last.time))
    {
        status.log_size = Some(counted);
    }
    status.last_verification = last_verification(status.last_verification.as_ref(), tasks);
    if let Some(found) = recovery_window(tasks)
        && is_newer(found.time.0, status.recovery_window.as_ref().map(|last| &last.time))
    {
        status.recovery_window = Some(found);
    }
    status.restored = restored(status.restored.take(), tasks);
}

/// Whether the status has the results already. That an index is restored and not promoted does not count: a writing pod ends it, too, also
/// where no task promoted the index, and each look at the tasks would begin it again.
pub(crate) fn has_results(status: &WalStatus, tasks: &TaskHistory) -> bool {
    let mut with_results = status.clone();
    apply_results(&mut with_results, tasks);
    with_results.restored.clone_from(&status.restored);
    with_results == *status
}

/// What verifications found: those that exist, and those that are gone and in `known`. It is the same in whatever order their ends were seen:
/// damage stays known until a verification finds nothing that began after the damage was found, and that looks at everything, and at what
/// a drill found.
pub(crate) fn last_verification(known: Option<&VerificationStatus>, tasks: &TaskHistory) -> Option<VerificationStatus> {
    let ended = tasks.verified().filter_map(|task| Some((task, Time(ended_at(task)?))));
    let mut last = ended.fold(known.cloned(), |before, (task, time)| Some(with_verification(before, task, time)))?;
    last.damaged = Some(last.open_damage().map_or(0, |damage| damage.damaged));
    last.cleared_by = last.wanted_check();
    Some(last)
}

/// What is known with the verification `task`, which ended at `ended`, but for what follows from the rest.
fn with_verification(before: Option<VerificationStatus>, task: &WalTask, ended: Time) -> VerificationStatus {
    let mut last = before.unwrap_or_else(|| VerificationStatus {
        time: ended.clone(),
        damaged: None,
        cleared_by: None,
        last_drill: None,
        damage: None,
        drill_damage: None,
        cleared_until: None,
        drill_cleared_until: None,
    });
    let VerifyTask { all, drill } = task.spec.verify.clone().unwrap_or_default();
    last.time = last.time.max(ended.clone());
    if drill && state(task) == Some(WalTaskState::Succeeded) {
        raise(&mut last.last_drill, ended.clone());
    }
    match damaged(task) {
        Some(damaged @ 1..) => {
            let place = if drill { &mut last.drill_damage } else { &mut last.damage };
            raise(place, DamageStatus { time: ended, damaged: api_number(damaged).unwrap_or(i64::MAX) });
        }
        _ if all => {
            let began = Time(started_at(task));
            if drill {
                raise(&mut last.drill_cleared_until, began.clone());
            }
            raise(&mut last.cleared_until, began);
        }
        _ => {}
    }
    last
}

/// Sets the later one.
fn raise<T: Ord>(place: &mut Option<T>, value: T) {
    if place.as_ref().is_none_or(|known| *known < value) {
        *place = Some(value);
    }
}

/// What the last restore made, unless it was promoted since.
fn restored(before: Option<RestoreStatus>, tasks: &TaskHistory) -> Option<RestoreStatus> {
    let newest = |r#type| tasks.succeeded(r#type).find_map(|task| Some((task, ended_at(task)?)));
    let made = newest(TaskType::Restore).map(|(task, time)| {
        let TaskFigures { generation, cursor, .. } = result(task);
        RestoreStatus { time: Time(time), generation, cursor: cursor.map(Time) }
    });
    // The task may be gone by now.
    let last = made.filter(|made| before.as_ref().is_none_or(|before| before.time <= made.time)).or(before)?;
    let promoted = newest(TaskType::Promote).is_some_and(|(_, promoted)| promoted > last.time.0);
    (!promoted).then_some(last)
}

fn snapshot(task: &WalTask, time: Timestamp) -> SnapshotStatus {
    let figures = index_figures(task);
    SnapshotStatus {
        name: result(task).snapshot.unwrap_or_else(|| task.name_any()),
        time: Time(time),
        // The command succeeds only once it has read again what it wrote.
        verified: true,
        entries: figures.as_ref().and_then(|figures| api_number(figures.entries)),
        bytes: figures.as_ref().and_then(|figures| api_number(figures.bytes)),
    }
}

/// What the task that looked last found, of those that exist.
fn recovery_window(tasks: &TaskHistory) -> Option<RecoveryWindowStatus> {
    let types = [TaskType::Snapshot, TaskType::Cleanup, TaskType::Verify, TaskType::Restore];
    let found = types.iter().filter_map(|r#type| {
        let mut found = tasks.succeeded(*r#type).filter(|task| !is_dry_run(task));
        found.find_map(|task| {
            let (time, window) = (Time(ended_at(task)?), result(task).recovery_window?);
            Some(RecoveryWindowStatus { time, first: Time(window.first), last: Time(window.last) })
        })
    });
    found.max_by(|one, other| one.time.cmp(&other.time))
}

/// The size of the log as the task that counted last found it. Also one that found damage, or did not delete all, has counted.
fn log_size(tasks: &TaskHistory) -> Option<LogSizeStatus> {
    let types = [TaskType::Snapshot, TaskType::Cleanup, TaskType::Verify];
    let counted = types.iter().filter_map(|r#type| {
        tasks.ended(*r#type).find_map(|task| {
            let TaskFigures { log_entries, log_bytes, .. } = result(task);
            let (entries, bytes) = (log_entries.and_then(api_number)?, log_bytes.and_then(api_number)?);
            Some(LogSizeStatus { time: Time(ended_at(task)?), entries, bytes })
        })
    });
    counted.max_by(|one, other| one.time.cmp(&other.time))
}

fn result(task: &WalTask) -> TaskFigures {
    task.status.as_ref().and_then(|status| status.result.clone()).unwrap_or_default()
}

fn is_dry_run(task: &WalTask) -> bool {
    task.spec.cleanup.as_ref().is_some_and(|cleanup| cleanup.dry_run)
}

fn is_newer(time: Timestamp, before: Option<&Time>) -> bool {
    before.is_none_or(|before| time >= before.0)
}

/// A number as the API knows numbers.
fn api_number(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}
