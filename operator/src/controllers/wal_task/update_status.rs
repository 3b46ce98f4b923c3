//! The status of a task, and the Events and counts of what changed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tidemark_crds::{
    ConditionStatus, Reason, TaskConditionType, TaskFigures, WalTaskState, WalTaskStatus, remove_condition,
    set_condition,
};

use super::{
    dereference::{ObservedTask, WalLookup},
    plan::TaskPlan,
};
use crate::{
    event_publisher::{EventRecord, shortened},
    status_writer::ReportedStatus,
};

/// The longest message of a condition that the API server takes.
const MAX_MESSAGE_BYTES: usize = 32768;

/// The status that follows from a plan.
pub(crate) fn next(task: &ObservedTask, plan: &TaskPlan, now: Timestamp) -> WalTaskStatus {
    let mut status = task.status.clone();
    let message = shortened(&plan.message, MAX_MESSAGE_BYTES);
    status.observed_generation = task.generation;
    status.state = Some(plan.state);
    status.message = Some(message.to_owned());
    status.attempts = i32::try_from(task.attempts()).ok();
    status.failure_class = plan.class;
    status.result = plan.figures.clone().filter(|figures| *figures != TaskFigures::default());
    status.start_time = task.started().map(Time);
    status.completion_time = plan.completed.map(Time);
    // The two times are of different clocks.
    let duration = task.started().zip(plan.completed).map(|(started, completed)| completed.duration_since(started));
    status.duration_seconds = duration.map(|duration| duration.as_secs().max(0));
    if let Some(last) = &task.last {
        status.job_name = Some(last.job.name.to_string());
        if let Some(job) = &last.job.job {
            status.wal_generation = job.wal_generation;
            status.image = Some(job.image.to_string()).filter(|image| !image.is_empty());
            status.wal_uid = Some(job.wal_uid.to_string()).filter(|uid| !uid.is_empty());
        }
    }
    if status.wal_uid.is_none()
        && let WalLookup::Found(wal) = &task.wal
    {
        status.wal_uid = Some(wal.uid.clone());
    }
    set_conditions(&mut status, plan, message, task.generation, now);
    status
}

fn set_conditions(status: &mut WalTaskStatus, plan: &TaskPlan, message: &str, generation: Option<i64>, now: Timestamp) {
    let (complete, failed) = match plan.state {
        WalTaskState::Pending | WalTaskState::Running => (false, false),
        WalTaskState::Succeeded => (true, false),
        WalTaskState::Failed | WalTaskState::Rejected => (false, true),
    };
    let conditions = &mut status.conditions;
    let mut set = |kind, holds: bool| {
        let holds = ConditionStatus::from(holds);
        set_condition(conditions, kind, holds, plan.reason, message, generation, now);
    };
    set(TaskConditionType::Complete, complete);
    set(TaskConditionType::Failed, failed);
    for (kind, present) in
        [(TaskConditionType::Reconciling, !plan.state.is_terminal()), (TaskConditionType::Stalled, failed)]
    {
        if present {
            set_condition(&mut status.conditions, kind, ConditionStatus::True, plan.reason, message, generation, now);
        } else {
            remove_condition(&mut status.conditions, kind);
        }
    }
}

/// The Events of what changed.
pub(crate) fn events_between(before: &WalTaskStatus, after: &WalTaskStatus) -> Vec<EventRecord> {
    let mut events = Vec::new();
    let message = after.message.clone().unwrap_or_default();
    if after.attempts > before.attempts.or(Some(0)) {
        let job = after.job_name.as_deref().unwrap_or_default();
        events.push(EventRecord::normal("AttemptStarted", format!("Job \"{job}\" was made")));
    }
    let (reason_before, reason) = (reason(before), reason(after));
    if before.state != after.state && after.state.is_some_and(WalTaskState::is_terminal) {
        events.push(match after.state {
            Some(WalTaskState::Succeeded) => EventRecord::normal("Succeeded", message),
            Some(WalTaskState::Rejected) => EventRecord::warning("Rejected", message),
            _ => EventRecord::warning("Failed", message),
        });
    } else if reason_before != reason {
        events.extend(match reason {
            Some(reason @ (Reason::WaitingForTask | Reason::WaitingForUpgrade)) => {
                Some(EventRecord::normal(reason.as_str(), message))
            }
            Some(
                reason @ (Reason::AttemptFailed
                | Reason::PodUnschedulable
                | Reason::ImageNotFound
                | Reason::PodRefused
                | Reason::PodCrashing
                | Reason::ChildRefused
                | Reason::WALNotFound),
            ) => Some(EventRecord::warning(reason.as_str(), message)),
            _ => None,
        });
    }
    events
}

/// The reason of the condition that a task has until it ends.
fn reason(status: &WalTaskStatus) -> Option<Reason> {
    let reconciling = tidemark_crds::condition(&status.conditions, TaskConditionType::Reconciling)?;
    Reason::parse(&reconciling.reason)
}

impl ReportedStatus for WalTaskStatus {
    /// Nothing of it is a counter.
    fn without_counters(&self) -> Self {
        self.clone()
    }

    fn with_clock_of(&self, _before: &Self) -> Self {
        self.clone()
    }

    fn observed_time(&self) -> Option<Timestamp> {
        None
    }
}
