//! Makes the tasks that are due, and removes those that are kept no longer.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use tidemark_crds::{ScheduleStatus, TaskType, WalTask, names};

use super::{
    due_tasks::{DueTask, ScheduleInputs},
    scheduled_task::scheduled_task,
    task_history::TaskHistory,
    task_results::has_results,
};
use crate::{
    controllers::wal::{observe::ObservedWal, validate::ValidatedWal},
    metrics::OperatorMetrics,
    namespace::is_refusal_of_terminating,
};

/// What came of the schedules of a WAL.
#[derive(Debug, Default)]
pub(crate) struct ScheduleOutcome {
    /// Up to when they are done with; `None` leaves that as it was.
    pub(crate) done: Option<ScheduleStatus>,
    /// When something may be due next.
    pub(crate) next: Option<Timestamp>,
    /// Why a task could not be made, which is tried again.
    pub(crate) failure: Option<TaskCreationError>,
}

/// A task that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("task \"{name}\" cannot be made: {source}; it is tried again; remove the cause")]
pub(crate) struct TaskCreationError {
    pub(crate) r#type: TaskType,
    name: String,
    pub(crate) source: kube::Error,
}

/// What came of one creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskCreation {
    Created,
    /// Another replica, or this one before it was restarted, had made it.
    Adopted,
    /// An object of somebody else has the name.
    NameTaken,
}

impl TaskCreation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Adopted => "adopted",
            Self::NameTaken => "name_taken",
        }
    }
}

/// Makes what is due at `now`. Where anything is, the tasks are listed first: the watch may be late, and two of a kind must not run.
pub(crate) async fn make_due_tasks(
    wal: &ValidatedWal,
    observed: &ObservedWal,
    client: &Client,
    metrics: &OperatorMetrics,
    now: Timestamp,
) -> ScheduleOutcome {
    let inputs = observed.schedule_inputs(&wal.schedules);
    let has_snapshot = inputs.has_verified_snapshot();
    let api: Api<WalTask> = Api::namespaced(client.clone(), &wal.namespace);
    if has_results(&observed.status, &observed.tasks) {
        remove_expired(&api, &observed.tasks).await;
    }
    let mut outlook = inputs.outlook(now);
    let first = outlook.due.first().copied();
    if let Some(first) = first {
        let listed = match list(&api, observed).await {
            Ok(listed) => listed,
            Err(source) => {
                let name = scheduled_task(wal, first, None, has_snapshot).name_any();
                let failure = Some(TaskCreationError { r#type: first.r#type, name, source });
                return ScheduleOutcome { done: Some(outlook.done), next: outlook.next, failure };
            }
        };
        outlook = ScheduleInputs { tasks: &listed, ..inputs }.outlook(now);
    }
    let (mut done, mut failure) = (outlook.done, None);
    for due in outlook.due {
        let task = scheduled_task(wal, due, observed.index.as_ref(), has_snapshot);
        match create(&api, &task).await {
            Ok(creation) => {
                metrics.task_scheduled(due.r#type, creation.as_str());
                tracing::info!(object = %observed.key, task = task.name_any(), slot = %due.slot, result = creation.as_str(), "scheduled a task");
                set_done(&mut done, due);
            }
            // Nothing runs there any more.
            Err(kube::Error::Api(status)) if is_refusal_of_terminating(&status) => {}
            Err(source) => {
                metrics.task_scheduled(due.r#type, "failed");
                failure = Some(TaskCreationError { r#type: due.r#type, name: task.name_any(), source });
            }
        }
    }
    ScheduleOutcome { done: Some(done), next: outlook.next, failure }
}

async fn list(api: &Api<WalTask>, observed: &ObservedWal) -> Result<TaskHistory, kube::Error> {
    let of_wal = ListParams::default().fields(&format!("spec.walRef.name={}", observed.key.name));
    let listed = api.list(&of_wal).await?.items.into_iter().map(Arc::new);
    Ok(TaskHistory::of(listed, &observed.key.name, &observed.uid, observed.created))
}

/// Creates the task, unless it is there: a slot has one name.
async fn create(api: &Api<WalTask>, task: &WalTask) -> Result<TaskCreation, kube::Error> {
    let params = PostParams { field_manager: Some(names::MANAGER_CHILDREN.to_owned()), ..PostParams::default() };
    match api.create(&params, task).await {
        Ok(_) => Ok(TaskCreation::Created),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let uid = |task: &WalTask| task.labels().get(names::LABEL_WAL_UID).cloned();
            let there = api.get_opt(&task.name_any()).await?;
            let is_own = there.is_none_or(|there| uid(&there) == uid(task));
            Ok(if is_own { TaskCreation::Adopted } else { TaskCreation::NameTaken })
        }
        Err(error) => Err(error),
    }
}

fn set_done(done: &mut ScheduleStatus, due: DueTask) {
    let place = match due.r#type {
        TaskType::Snapshot => &mut done.snapshot,
        TaskType::Cleanup => &mut done.cleanup,
        TaskType::Verify => &mut done.verify,
        TaskType::GC => &mut done.gc,
        TaskType::Reindex | TaskType::Restore | TaskType::Promote => return,
    };
    // A schedule without times remembers nothing.
    if let Some(place) = place {
        *place = Time(place.0.max(due.slot));
    }
}

/// Removes the oldest. One that cannot be removed is tried again when the WAL is reconciled next.
async fn remove_expired(api: &Api<WalTask>, tasks: &TaskHistory) {
    for task in tasks.expired() {
        let preconditions = Preconditions { uid: task.uid(), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        if let Err(error) = api.delete(&task.name_any(), &params).await {
            tracing::debug!(task = task.name_any(), %error, "cannot remove an old task");
        }
    }
}
