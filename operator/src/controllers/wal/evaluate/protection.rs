//! What `SnapshotCurrent` and `Verified` are made from, and what both ask: whether a schedule is followed.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use tidemark_crds::{CronSchedule, Reason, TaskType, WalTask, WalTaskState, names};

use crate::{
    condition_value::ConditionValue,
    controllers::wal::schedule::{
        due_tasks::{ScheduleInputs, schedule_done},
        task_history::{created_at, state},
    },
};

/// Nothing is late before this.
pub(super) const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Whether a WAL's schedules and tasks are known.
#[derive(Clone, Debug)]
pub(crate) enum ProtectionState<'a> {
    /// The spec is refused, and with it its schedules.
    Refused,
    /// The operator has just started, and has not listed the tasks.
    Unlisted,
    Known(ProtectionInputs<'a>),
}

impl ProtectionState<'_> {
    /// What a condition says by `evaluate`, where that can be known; `before` is what it said before.
    pub(super) fn evaluate(
        &self,
        before: Option<&Condition>,
        evaluate: impl FnOnce(&ProtectionInputs<'_>) -> ConditionValue,
    ) -> ConditionValue {
        match (self, before) {
            (Self::Known(inputs), _) => evaluate(inputs),
            (Self::Unlisted, Some(before)) => ConditionValue::repeated(before),
            (Self::Unlisted, None) => {
                ConditionValue::unknown(Reason::Pending, "the operator is listing the tasks of this WAL")
            }
            (Self::Refused, _) => ConditionValue::unknown(
                Reason::SpecInvalid,
                "the spec is refused, and none of its schedules is followed; see the condition Ready for what to correct",
            ),
        }
    }
}

/// What is known of a WAL's schedules and tasks.
#[derive(Clone, Debug)]
pub(crate) struct ProtectionInputs<'a> {
    /// With the status as the tasks' results change it.
    pub(crate) schedule: ScheduleInputs<'a>,
    /// Why a task could not be made, and of which type.
    pub(crate) failure: Option<(TaskType, String)>,
    /// Why no task is made now, and the remedy, if none is.
    pub(crate) blocked: Option<&'static str>,
    pub(crate) now: Timestamp,
}

impl ProtectionInputs<'_> {
    /// The last task of this type that was tried, if it failed.
    pub(super) fn failed_task(&self, r#type: TaskType) -> Option<&WalTask> {
        let mut tried = self.schedule.tasks.ended(r#type).filter(|task| state(task) != Some(WalTaskState::Rejected));
        tried.next().filter(|task| state(task) == Some(WalTaskState::Failed))
    }

    /// The last task of this type that a schedule made, if it was rejected and nobody's has been tried since. That one of a user was
    /// rejected says nothing.
    pub(super) fn rejected_task(&self, r#type: TaskType) -> Option<&WalTask> {
        let is_rejected = |task: &&WalTask| state(task) == Some(WalTaskState::Rejected);
        let rejected = self.schedule.tasks.ended(r#type).take_while(is_rejected);
        let mut scheduled = rejected.filter(|task| task.labels().contains_key(names::LABEL_SCHEDULE));
        scheduled.next()
    }

    /// Why what the schedule asks for is late, if it is; `last` is when it was done last.
    pub(super) fn lateness(
        &self,
        r#type: TaskType,
        cron: Option<&CronSchedule>,
        last: Option<Timestamp>,
    ) -> Option<String> {
        if let Some((_, failure)) = self.failure.as_ref().filter(|(failed, _)| *failed == r#type) {
            return Some(failure.clone());
        }
        let late = self.now.checked_sub(GRACE).unwrap_or(self.now);
        if let Some(active) = self.schedule.tasks.active(r#type) {
            let waits = state(active) != Some(WalTaskState::Running) && created_at(active) <= late;
            return waits.then(|| format!("task \"{}\" has not begun: {}", active.name_any(), message(active)));
        }
        let done = schedule_done(self.schedule.status.schedules.as_ref(), r#type)?;
        let from = [last, self.schedule.tasks.done_until(r#type)].into_iter().flatten().fold(done, Timestamp::max);
        let slot = cron?.last_between(from, late)?;
        Some(format!("one was due at {slot}, and {}", self.blocked.unwrap_or("no task was made for it")))
    }
}

/// What a task says of itself.
pub(super) fn message(task: &WalTask) -> &str {
    let message = task.status.as_ref().and_then(|status| status.message.as_deref());
    message.unwrap_or("no operator has looked at it; see that one runs and leads")
}
