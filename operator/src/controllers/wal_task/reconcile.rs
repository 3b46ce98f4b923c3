//! The reconciliation of one task, as a table of contents.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Preconditions},
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use tidemark_crds::{Reason, TaskConditionType, Wal, WalTask, WalTaskState, WalTaskStatus, is_true, names};

use super::{
    admit::{AdmissionDecision, admit, waits_for_attempt},
    build::{AttemptPlan, build},
    dereference::{LastAttempt, ObservedTask, TargetWal, has_all_results, observe},
    plan::{TaskPlan, TaskStep, WAIT_INTERVAL, expires_in, plan},
    update_status::{events_between, next},
    wal_task_controller::WalTaskController,
};
use crate::{
    cache::{ActiveAttempt, JobPod, NamespacedName},
    clock,
    condition_value::ConditionValue,
    controllers::{
        kind_controller::{KindController, ReconcileError},
        unreadable_object,
    },
    desired_object::DesiredObject,
    object_applier::{ApplyError, ObjectApplier},
    reconcile_queues::ReconcileTarget,
    status_writer::{StatusWriter, WriteTiming},
};

/// A task is reconciled this often even if nothing says that it changed.
const RESYNC_INTERVAL: Duration = Duration::from_mins(10);

impl KindController for WalTaskController {
    type Object = WalTask;

    const NAME: &'static str = "waltask";

    async fn reconcile(&self, task: &DeserializeGuard<WalTask>) -> Result<Action, ReconcileError> {
        match &task.0 {
            Ok(task) => Box::pin(reconcile_task(task, self)).await,
            Err(invalid) => reconcile_unreadable(invalid, self).await,
        }
    }

    /// The WAL's schedules follow what becomes of its tasks.
    fn shown(&self, task: &WalTask) {
        let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
        let wal = NamespacedName::new(namespace, &task.spec.wal_ref.name);
        // With a full queue the resync finds it.
        self.context.shared.queues.try_send(ReconcileTarget::new(names::KIND, wal));
    }

    fn is_own_write(&self, key: &NamespacedName, shown: &WalTask) -> bool {
        self.statuses.is_own_write(key, shown)
    }

    fn listed(&self, _tasks: &[Arc<DeserializeGuard<WalTask>>]) {}

    fn forget(&self, key: &NamespacedName) {
        self.statuses.forget(key);
        self.tally.forget(key);
    }
}

async fn reconcile_unreadable(
    invalid: &InvalidObject,
    controller: &WalTaskController,
) -> Result<Action, ReconcileError> {
    let shared = &controller.context.shared;
    shared.metrics.invalid_object();
    let values = |message: &str, before: &[Condition]| {
        // What a task came to is final, whoever reads it later.
        let has_ended =
            [TaskConditionType::Complete, TaskConditionType::Failed].iter().any(|end| is_true(before, *end));
        let refused = (TaskConditionType::Complete, ConditionValue::no(Reason::SpecInvalid, message));
        if has_ended { Vec::new() } else { vec![refused] }
    };
    let manager = names::MANAGER_TASK_STATUS;
    let reported =
        unreadable_object::report::<WalTask, _>(invalid, &shared.client, values, manager, None, clock::now()).await;
    let conditions = reported.map_err(ReconcileError::Status)?;
    controller.tally.count(&NamespacedName::of(&invalid.metadata), &conditions);
    Ok(Action::await_change())
}

#[tracing::instrument(name = "reconcile", skip_all, fields(task = %task.name_any(), namespace = task.namespace()))]
async fn reconcile_task(task: &WalTask, controller: &WalTaskController) -> Result<Action, ReconcileError> {
    // Its Jobs go with it.
    if task.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    // Before anything is looked up: most tasks that exist have ended.
    let key = NamespacedName::of(&task.metadata);
    let status = controller.statuses.status(&key, task);
    if status.state.is_some_and(WalTaskState::is_terminal) {
        controller.tally.count(&key, &status.conditions);
        return expire(task, &key, &status, controller).await;
    }
    let wal = NamespacedName::new(&key.namespace, &task.spec.wal_ref.name);
    // Taken before anything is decided: what another task does is seen from here on.
    let writes = task.spec.r#type.command().writes;
    let turn = if writes { controller.turns.take(&wal) } else { None };
    if writes && turn.is_none() {
        return Ok(Action::requeue(WAIT_INTERVAL));
    }
    let mut observed = observe(task, controller);
    if observed.has_lost_job() && observed.is_in_time(clock::now()) && observed.is_job_there(controller).await? {
        return Ok(Action::requeue(WAIT_INTERVAL));
    }
    observed.find_pod(controller).await?;
    let mut plan = plan(&observed, clock::now());
    match plan.step {
        TaskStep::None => {}
        TaskStep::Start { number, time_limit } => {
            plan = start(task, &mut observed, (number, time_limit), controller).await?;
        }
        TaskStep::Stop => stop(&observed, controller).await?,
    }
    drop(turn);
    report(task, &observed, &plan, controller).await?;
    let expires = plan.completed.map(|_| Duration::ZERO);
    Ok(Action::requeue(plan.again.or(expires).map_or(RESYNC_INTERVAL, |again| again.min(RESYNC_INTERVAL))))
}

/// Deletes a task that ended long ago, and with it its Jobs.
async fn expire(
    task: &WalTask,
    key: &NamespacedName,
    status: &WalTaskStatus,
    controller: &WalTaskController,
) -> Result<Action, ReconcileError> {
    let left = expires_in(&task.spec, status, clock::now());
    if !left.is_zero() {
        return Ok(Action::requeue(left));
    }
    let wal = NamespacedName::new(&key.namespace, &task.spec.wal_ref.name);
    // Its end may have been seen late: what it found would be lost with it.
    if !has_all_results(&wal, controller) {
        controller.context.shared.queues.try_send(ReconcileTarget::new(names::KIND, wal));
        return Ok(Action::requeue(WAIT_INTERVAL));
    }
    let api: Api<WalTask> = Api::namespaced(controller.context.shared.client.clone(), &key.namespace);
    let preconditions = Preconditions { uid: task.metadata.uid.clone(), resource_version: None };
    match api.delete(&key.name, &DeleteParams::background().preconditions(preconditions)).await {
        Ok(_) => tracing::info!(object = %key, "deleted a task that ended long ago"),
        // Gone already, or another one by now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => return Err(ReconcileError::Expiry(error)),
    }
    Ok(Action::await_change())
}

/// Makes the Job of an attempt, and answers what comes next.
async fn start(
    task: &WalTask,
    observed: &mut ObservedTask,
    (number, time_limit): (usize, Duration),
    controller: &WalTaskController,
) -> Result<TaskPlan, ReconcileError> {
    let now = clock::now();
    let settings = &controller.context.shared.settings;
    let (AdmissionDecision::Admitted(wal), Some(owner)) = (admit(observed, now), task.controller_owner_ref(&())) else {
        return Ok(plan(observed, now));
    };
    let TargetWal { validated: Ok(validated), image, .. } = wal else { return Ok(plan(observed, now)) };
    let image = image.as_deref().unwrap_or(&settings.platform.image);
    let attempt = AttemptPlan { task: &observed.key, owner, spec: &observed.spec, number, image, time_limit };
    let job = build(&attempt, validated, &settings.platform);
    if observed.spec.r#type.command().writes
        && let Some(attempt) = find_writing_pod(&observed.wal_key(), controller, now).await?
    {
        let message = waits_for_attempt(&attempt, &observed.spec.wal_ref.name);
        let class = observed.status.failure_class;
        return Ok(TaskPlan { class, ..TaskPlan::waits(Reason::WaitingForTask, message) });
    }
    match applier(observed, controller).create(DesiredObject::Job(&job)).await {
        Ok(_) => {
            // The Job is in the cache by now.
            *observed = observe(task, controller);
            Ok(plan(observed, now))
        }
        Err(error @ ApplyError::NameTaken { .. }) => {
            Ok(TaskPlan::ended(observed, Reason::NameTaken, error.to_string(), now))
        }
        Err(error @ ApplyError::Refused { .. }) => Ok(TaskPlan::waits(Reason::ChildRefused, error.to_string())),
        Err(
            error @ (ApplyError::Leftover { .. }
            | ApplyError::Terminating { .. }
            | ApplyError::LeftBehind { .. }
            | ApplyError::NamespaceTerminating),
        ) => Ok(TaskPlan::waits(Reason::Pending, error.to_string())),
        Err(error @ (ApplyError::Failed { .. } | ApplyError::Unwritable(_))) => Err(error.into()),
    }
}

/// Asks the API server for a pod that may still write for a WAL: the watch may be late.
async fn find_writing_pod(
    wal: &NamespacedName,
    controller: &WalTaskController,
    now: Timestamp,
) -> Result<Option<ActiveAttempt>, ReconcileError> {
    let pods: Api<Pod> = Api::namespaced(controller.context.shared.client.clone(), &wal.namespace);
    let of_jobs = format!("{}={},{}", names::LABEL_WAL, wal.name, names::LABEL_TASK);
    let found = pods.list(&ListParams::default().labels(&of_jobs)).await.map_err(ReconcileError::Pods)?;
    let attempts = found.items.iter().filter_map(|pod| ActiveAttempt::of_pod(&JobPod::read(pod)?, now));
    Ok(attempts.into_iter().find(|attempt| attempt.writes))
}

/// Stops the last attempt.
async fn stop(observed: &ObservedTask, controller: &WalTaskController) -> Result<(), ReconcileError> {
    if let Some(LastAttempt { job, .. }) = &observed.last {
        applier(observed, controller).delete(job).await?;
    }
    Ok(())
}

fn applier<'a>(observed: &'a ObservedTask, controller: &'a WalTaskController) -> ObjectApplier<'a> {
    let context = &controller.context;
    ObjectApplier { client: &context.shared.client, cache: &context.cache, owner: observed.owner() }
}

/// Writes status and Events if there is news.
async fn report(
    task: &WalTask,
    observed: &ObservedTask,
    plan: &TaskPlan,
    controller: &WalTaskController,
) -> Result<(), ReconcileError> {
    let shared = &controller.context.shared;
    let (before, after) = (&observed.status, next(observed, plan, clock::now()));
    let (statuses, field_manager) = (&controller.statuses, names::MANAGER_TASK_STATUS);
    let writer = StatusWriter { client: &shared.client, statuses, field_manager };
    let timing = writer.update(observed.owner(), before, &after).await.map_err(ReconcileError::Status)?;
    if timing == WriteTiming::Now {
        shared.events.publish(&task.object_ref(&()), &events_between(before, &after)).await;
        if let Some(state) = after.state.filter(|state| state.is_terminal()) {
            shared.metrics.task_ended(observed.spec.r#type.as_str(), state.as_str());
        }
        // What the WAL tells of its snapshots and of its upgrade may change.
        shared.queues.try_send(ReconcileTarget::new(Wal::kind(&()).as_ref(), observed.wal_key()));
    }
    controller.tally.count(&observed.key, &after.conditions);
    Ok(())
}

impl ObservedTask {
    /// Whether the Job of the last attempt is there, although the cache does not have it: a list that was begun before the Job was made
    /// takes it out of the cache, until the watch shows it.
    async fn is_job_there(&self, controller: &WalTaskController) -> Result<bool, ReconcileError> {
        let jobs: Api<Job> = Api::namespaced(controller.context.shared.client.clone(), &self.key.namespace);
        let name = names::job(&self.key.name, self.attempts());
        let found = jobs.get_opt(&name).await.map_err(ReconcileError::Jobs)?;
        let owners = found.into_iter().flat_map(|job| job.metadata.owner_references.unwrap_or_default());
        Ok(owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == self.uid))
    }

    /// Reads the pod of an attempt that has ended, where the watch does not show it, or not yet how its container ended.
    async fn find_pod(&mut self, controller: &WalTaskController) -> Result<(), ReconcileError> {
        let Some(last) = &mut self.last else { return Ok(()) };
        let has_ended = last.job.job.as_ref().is_some_and(|job| job.end.is_some());
        if !has_ended || last.pod.as_ref().is_some_and(|pod| pod.exit.is_some()) {
            return Ok(());
        }
        let pods: Api<Pod> = Api::namespaced(controller.context.shared.client.clone(), &self.key.namespace);
        let of_task = ListParams::default().labels(&format!("{}={}", names::LABEL_TASK, self.key.name));
        let found = pods.list(&of_task).await.map_err(ReconcileError::Pods)?;
        let mut found = found.items.iter().filter_map(JobPod::read);
        if let Some(pod) = found.find(|pod| pod.job_uid == last.job.uid) {
            last.pod = Some(Arc::new(pod));
        }
        Ok(())
    }
}
