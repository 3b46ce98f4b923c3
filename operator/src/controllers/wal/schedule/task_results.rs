//! What the results of tasks say of a WAL, for its status: from all tasks that exist, whatever was seen before.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tidemark_crds::{
    CleanupStatus, RecoveryWindow, RestoreStatus, SnapshotStatus, TaskFigures, TaskType, VerificationStatus,
    VerifyTask, WalStatus, WalTask, WalTaskState,
};

use super::task_history::{TaskHistory, damaged, ended_at, index_figures, state};

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
            log_entries: left(result.entries, result.deleted_entries),
            log_bytes: left(result.bytes, result.deleted_bytes),
        });
    }
    status.last_verification = last_verification(status.last_verification.as_ref(), tasks);
    if let Some(window) = recovery_window(tasks) {
        status.recovery_window = Some(window);
    }
    status.restored = restored(status.restored.take(), tasks);
}

/// What is known by the last verification that was through: after the one that is known, all that ended since, the oldest one first.
pub(crate) fn last_verification(known: Option<&VerificationStatus>, tasks: &TaskHistory) -> Option<VerificationStatus> {
    let ended = tasks.verified().filter_map(|task| Some((task, ended_at(task)?)));
    let mut later: Vec<_> = ended.filter(|(_, time)| is_newer(*time, known.map(|known| &known.time))).collect();
    later.reverse();
    later.into_iter().fold(known.cloned(), |before, (task, time)| Some(verification(before, task, time)))
}

/// What is known after the verification `task`. Damage stays known until one finds nothing that looks at everything, and at what a drill
/// found: a sample may miss it.
fn verification(before: Option<VerificationStatus>, task: &WalTask, time: Timestamp) -> VerificationStatus {
    let looked = task.spec.verify.clone().unwrap_or_default();
    let was_restored = looked.drill && state(task) == Some(WalTaskState::Succeeded);
    let (wanted, known, last_drill) = match before {
        Some(before) => (before.wanted_check(), before.damaged, before.last_drill),
        None => (None, None, None),
    };
    let found = damaged(task).and_then(api_number);
    // What a sample looks at is chance: the next one may look elsewhere.
    let all_of_it = VerifyTask { all: true, ..looked.clone() };
    let (damaged, cleared_by) = match (found, wanted.filter(|wanted| !looked.covers(wanted))) {
        (Some(1..), Some(wanted)) => (found, Some(wanted.union(&all_of_it))),
        (Some(1..), None) => (found, Some(all_of_it)),
        (_, Some(wanted)) => (known, Some(wanted)),
        (_, None) => (found, None),
    };
    let last_drill = if was_restored { Some(Time(time)) } else { last_drill };
    VerificationStatus { time: Time(time), damaged, cleared_by, last_drill }
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

/// What the task that looked last found.
fn recovery_window(tasks: &TaskHistory) -> Option<RecoveryWindow> {
    let types = [TaskType::Snapshot, TaskType::Cleanup, TaskType::Verify, TaskType::Restore];
    let found = types.iter().filter_map(|r#type| {
        let mut found = tasks.succeeded(*r#type).filter(|task| !is_dry_run(task));
        found.find_map(|task| Some((ended_at(task)?, result(task).recovery_window?)))
    });
    found.max_by_key(|(ended, _)| *ended).map(|(_, window)| window)
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

/// What is left in the log of what it had.
fn left(had: Option<u64>, deleted: Option<u64>) -> Option<i64> {
    had.zip(deleted).and_then(|(had, deleted)| api_number(had.saturating_sub(deleted)))
}

/// A number as the API knows numbers.
fn api_number(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}
