//! What exists of a task and of its WAL, from the watches: no request.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{core::ApiResource, runtime::reflector::ObjectRef};
use tidemark_crds::{
    RecoveryWindow, TaskType, VerifyTask, Wal, WalTask, WalTaskSpec, WalTaskState, WalTaskStatus, names,
};

use super::wal_task_controller::WalTaskController;
use crate::{
    cache::{ActiveAttempt, ChildKind, JobPod, NamespacedName, OwnedObject, OwnedObjects, writing_attempt},
    clock,
    controllers::{
        wal::{
            schedule::{
                task_history::TaskHistory,
                task_results::{has_results, last_verification},
            },
            upgrade,
            validate::{SpecRefusal, ValidatedWal, validate},
        },
        writer_image,
    },
    object_owner::ObjectOwner,
};

/// A task with everything that decides what comes next.
#[derive(Clone, Debug)]
pub(crate) struct ObservedTask {
    pub(crate) key: NamespacedName,
    pub(crate) uid: String,
    pub(crate) generation: Option<i64>,
    pub(crate) spec: WalTaskSpec,
    /// When it was made, by the API server's clock.
    pub(crate) created: Option<Timestamp>,
    /// As it was written last, even if the watch does not show it yet.
    pub(crate) status: WalTaskStatus,
    pub(crate) wal: WalLookup,
    /// The last attempt of which there is a Job.
    pub(crate) last: Option<LastAttempt>,
    /// When the first Job was made that is still there.
    pub(crate) first_job: Option<Timestamp>,
    /// The other tasks of the WAL.
    pub(crate) others: Vec<OtherTask>,
    /// What may still write for the WAL, of whatever task; one at most is looked at.
    pub(crate) writing: Option<ActiveAttempt>,
}

/// A Job of the task, and its pod.
#[derive(Clone, Debug)]
pub(crate) struct LastAttempt {
    /// Its number, from 1.
    pub(crate) number: usize,
    pub(crate) job: Arc<OwnedObject>,
    pub(crate) pod: Option<Arc<JobPod>>,
}

/// The WAL that a task names.
#[derive(Clone, Debug)]
pub(crate) enum WalLookup {
    Missing,
    /// This release cannot read it.
    Unreadable,
    Found(Box<TargetWal>),
}

/// A WAL, as far as its tasks need it.
#[derive(Clone, Debug)]
pub(crate) struct TargetWal {
    pub(crate) uid: String,
    /// Whether it is being deleted.
    pub(crate) deleted: bool,
    pub(crate) suspended: bool,
    /// What its Jobs are built from, or why its spec is refused.
    pub(crate) validated: Result<ValidatedWal, String>,
    /// Whether it is being upgraded.
    pub(crate) upgrading: bool,
    /// Whether the ServiceAccount of the task's Jobs is the WAL's.
    pub(crate) account: AccountState,
    /// What its writer runs, else its indexer's Deployment; `None` if there is neither.
    pub(crate) image: Option<String>,
    /// What a verification has to look at, and find nothing, before index and archive are taken for repaired; `None` where no damage is known.
    pub(crate) wanted_check: Option<VerifyTask>,
    /// Whether a verified snapshot is known.
    pub(crate) has_snapshot: bool,
    /// What the index can be restored to, as far as it is known.
    pub(crate) recovery_window: Option<RecoveryWindow>,
}

/// Another task of the same WAL.
#[derive(Clone, Debug)]
pub(crate) struct OtherTask {
    pub(crate) name: String,
    pub(crate) r#type: TaskType,
    pub(crate) created: Option<Timestamp>,
    /// Whether there is a Job of it.
    pub(crate) has_started: bool,
    pub(crate) state: Option<WalTaskState>,
}

/// Whether a ServiceAccount is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccountState {
    Ready,
    Missing,
    /// It is there and not the WAL's.
    Foreign,
}

/// Looks it up.
pub(crate) fn observe(task: &WalTask, controller: &WalTaskController) -> ObservedTask {
    let key = NamespacedName::of(&task.metadata);
    let uid = task.metadata.uid.clone().unwrap_or_default();
    let wal = NamespacedName::new(&key.namespace, &task.spec.wal_ref.name);
    let owned = controller.context.cache.owned(&wal);
    let jobs = jobs(&key, &uid, &owned);
    let first_job = jobs.iter().filter_map(|(_, job)| job.job.as_ref()?.created).min();
    let last = jobs.into_iter().max_by_key(|(number, _)| *number).map(|(number, job)| {
        let pod = owned.job_pods.values().find(|pod| pod.job_uid == job.uid).cloned();
        LastAttempt { number, job, pod }
    });
    ObservedTask {
        generation: task.metadata.generation,
        created: task.metadata.creation_timestamp.as_ref().map(|time| time.0),
        status: controller.statuses.status(&key, task),
        wal: look_up(&wal, task, &owned, controller),
        others: others(&key, &wal, &owned, controller),
        writing: writing_attempt(&owned, clock::now()),
        spec: task.spec.clone(),
        key,
        uid,
        last,
        first_job,
    }
}

/// The Jobs of the task with their numbers.
fn jobs(key: &NamespacedName, uid: &str, owned: &OwnedObjects) -> Vec<(usize, Arc<OwnedObject>)> {
    let of_task = owned.children.values().filter(|child| child.kind == ChildKind::Job && child.is_controlled_by(uid));
    let number = |job: &OwnedObject| job.name.strip_prefix(&*key.name)?.strip_prefix('-')?.parse().ok();
    of_task.filter_map(|job| Some((number(job)?, job.clone()))).collect()
}

fn look_up(key: &NamespacedName, task: &WalTask, owned: &OwnedObjects, controller: &WalTaskController) -> WalLookup {
    let found = controller.wals.get(&ObjectRef::new(&key.name).within(&key.namespace));
    let Some(found) = found else { return WalLookup::Missing };
    let Ok(wal) = &found.0 else { return WalLookup::Unreadable };
    let settings = &controller.context.shared.settings;
    let status = wal.status.clone().unwrap_or_default();
    let uid = wal.metadata.uid.clone().unwrap_or_default();
    let account = owned.child(ChildKind::ServiceAccount, &task.spec.r#type.service_account(&key.name));
    let refused = |refusals: Vec<SpecRefusal>| refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    WalLookup::Found(Box::new(TargetWal {
        deleted: wal.metadata.deletion_timestamp.is_some(),
        suspended: wal.spec.suspend,
        validated: validate(wal, &settings.cluster_id).map_err(refused),
        upgrading: controller.slots.is_under_way(key) || upgrade::is_under_way(&status.conditions),
        account: match account {
            None => AccountState::Missing,
            Some(account) if account.is_controlled_by(&uid) && !account.terminating => AccountState::Ready,
            Some(_) => AccountState::Foreign,
        },
        image: writer_image::of_writer(&uid, owned, &controller.context.observations)
            .or_else(|| writer_image::of_indexer(&key.name, &uid, owned)),
        wanted_check: (task.spec.r#type == TaskType::Cleanup).then(|| wanted_check(key, wal, controller)).flatten(),
        has_snapshot: status.last_snapshot.is_some_and(|snapshot| snapshot.verified)
            || status.recovery_window.is_some()
            || has_taken_snapshot(key, controller),
        recovery_window: status
            .recovery_window
            .map(|known| RecoveryWindow { first: known.first.0, last: known.last.0 }),
        uid,
    }))
}

/// What a verification has to look at before damage is taken for repaired. That of the WAL's status may be older than its tasks are.
fn wanted_check(key: &NamespacedName, wal: &Wal, controller: &WalTaskController) -> Option<VerifyTask> {
    let known = wal.status.as_ref().and_then(|status| status.last_verification.as_ref());
    last_verification(known, &history(key, wal, controller))?.wanted_check()
}

/// The tasks of a WAL, with the statuses that were written last.
fn history(key: &NamespacedName, wal: &Wal, controller: &WalTaskController) -> TaskHistory {
    let created = wal.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |created| created.0);
    let tasks = tasks_of(key, controller).map(|(key, task)| {
        let status = Some(controller.statuses.status(&key, &task));
        Arc::new(WalTask { status, ..task })
    });
    TaskHistory::of(tasks, &key.name, wal.metadata.uid.as_deref().unwrap_or_default(), created)
}

/// Whether the WAL has the results of all its tasks in its status, so that one may go. A WAL that is gone, or going, needs none; one that
/// this release cannot read has them once one can.
pub(crate) fn has_all_results(key: &NamespacedName, controller: &WalTaskController) -> bool {
    let Some(found) = controller.wals.get(&ObjectRef::new(&key.name).within(&key.namespace)) else { return true };
    let Ok(wal) = &found.0 else { return false };
    let status = wal.status.clone().unwrap_or_default();
    wal.metadata.deletion_timestamp.is_some() || has_results(&status, &history(key, wal, controller))
}

/// Whether a task of the WAL took a snapshot. Each that succeeded is verified.
fn has_taken_snapshot(wal: &NamespacedName, controller: &WalTaskController) -> bool {
    tasks_of(wal, controller).any(|(key, task)| {
        task.spec.r#type == TaskType::Snapshot
            && controller.statuses.status(&key, &task).state == Some(WalTaskState::Succeeded)
    })
}

fn tasks_of<'a>(
    wal: &'a NamespacedName,
    controller: &WalTaskController,
) -> impl Iterator<Item = (NamespacedName, WalTask)> + use<'a> {
    let tasks = controller.tasks.state();
    tasks.into_iter().filter_map(|task| {
        let task = task.0.as_ref().ok()?;
        let key = NamespacedName::of(&task.metadata);
        (key.namespace == wal.namespace && *task.spec.wal_ref.name == *wal.name).then(|| (key, task.clone()))
    })
}

fn others(
    key: &NamespacedName,
    wal: &NamespacedName,
    owned: &OwnedObjects,
    controller: &WalTaskController,
) -> Vec<OtherTask> {
    let has_job = |uid: &str| {
        let mut jobs = owned.children.values().filter(|child| child.kind == ChildKind::Job);
        jobs.any(|job| job.is_controlled_by(uid))
    };
    tasks_of(wal, controller)
        .filter(|(other, _)| other != key)
        .map(|(other, task)| OtherTask {
            r#type: task.spec.r#type,
            created: task.metadata.creation_timestamp.as_ref().map(|time| time.0),
            has_started: has_job(task.metadata.uid.as_deref().unwrap_or_default()),
            state: controller.statuses.status(&other, &task).state,
            name: other.name.to_string(),
        })
        .collect()
}

impl ObservedTask {
    /// The WAL that the task names.
    pub(crate) fn wal_key(&self) -> NamespacedName {
        NamespacedName::new(&self.key.namespace, &self.spec.wal_ref.name)
    }

    /// How many attempts there were, also those whose Jobs are gone.
    pub(crate) fn attempts(&self) -> usize {
        let reported = self.status.attempts.and_then(|attempts| usize::try_from(attempts).ok()).unwrap_or_default();
        self.last.as_ref().map_or(0, |last| last.number).max(reported)
    }

    /// Whether the Job of the last attempt is not in the cache.
    pub(crate) fn has_lost_job(&self) -> bool {
        let attempts = self.attempts();
        attempts > 0 && self.last.as_ref().is_none_or(|last| last.number != attempts)
    }

    /// When its first Job was made, by the API server's clock.
    pub(crate) fn started(&self) -> Option<Timestamp> {
        self.status.start_time.as_ref().map(|time| time.0).or(self.first_job)
    }

    /// The task as the owner of its Jobs.
    pub(crate) fn owner(&self) -> ObjectOwner<'_> {
        ObjectOwner {
            kind: names::TASK_KIND,
            resource: || ApiResource::erase::<WalTask>(&()),
            key: &self.key,
            uid: &self.uid,
            deleting: false,
            field_manager: names::MANAGER_TASK_CHILDREN,
        }
    }
}
