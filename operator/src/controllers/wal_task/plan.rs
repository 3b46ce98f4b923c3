//! What comes next for a task, and what its status says until then: pure, but for the time that it is given.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_crds::{
    Reason, TaskConditionType, TaskFailureClass, TaskFigures, TimeSpan, WalTaskSpec, WalTaskState, WalTaskStatus,
    condition,
};

use super::{
    admit::{AdmissionDecision, admit, gone},
    attempt::{self, AttemptFailure, AttemptState},
    dereference::{LastAttempt, ObservedTask},
};

/// How soon a task is looked at again that waits for something.
pub(crate) const WAIT_INTERVAL: Duration = Duration::from_secs(3);
/// The wait before the second attempt; each one after that waits for twice as long.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// No attempt waits longer for its turn.
const MAX_RETRY: SignedDuration = SignedDuration::from_mins(5);
/// Kubernetes stops a Job at its deadline. A pod on a node that is cut off cannot be stopped: then the task ends this much later.
const STOP_GRACE: SignedDuration = SignedDuration::from_mins(2);
/// How long a span may be that cannot be read: such a task is refused before it matters.
const UNREADABLE_SPAN: Duration = Duration::from_hours(6);

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TaskStep {
    /// Nothing, until something changes.
    None,
    /// Another attempt starts.
    Start {
        number: usize,
        /// How long it may take.
        time_limit: Duration,
    },
    /// The last attempt is stopped.
    Stop,
}

/// What comes next, and what the status says until then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskPlan {
    pub(crate) step: TaskStep,
    pub(crate) state: WalTaskState,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// Of the last attempt that failed.
    pub(crate) class: Option<TaskFailureClass>,
    pub(crate) figures: Option<TaskFigures>,
    /// When it ended, if it did.
    pub(crate) completed: Option<Timestamp>,
    /// When to look again at the latest; left to the resync if nothing is due.
    pub(crate) again: Option<Duration>,
}

impl TaskPlan {
    fn new(state: WalTaskState, reason: Reason, message: String) -> Self {
        Self { step: TaskStep::None, state, reason, message, class: None, figures: None, completed: None, again: None }
    }

    /// It waits: for the same reason as long as that is so.
    pub(crate) fn waits(reason: Reason, message: String) -> Self {
        Self { again: Some(WAIT_INTERVAL), ..Self::new(WalTaskState::Pending, reason, message) }
    }

    /// It has ended without success: it failed if it was tried, else it is rejected.
    pub(crate) fn ended(task: &ObservedTask, reason: Reason, message: String, now: Timestamp) -> Self {
        let state = if task.attempts() > 0 { WalTaskState::Failed } else { WalTaskState::Rejected };
        Self { completed: Some(now), ..Self::new(state, reason, message) }
    }
}

/// What comes next at `now` for a task that has not ended.
pub(crate) fn plan(task: &ObservedTask, now: Timestamp) -> TaskPlan {
    let attempts = task.attempts();
    if attempts == 0 {
        return first_attempt(task, now);
    }
    let max = usize::try_from(task.spec.max_attempts).unwrap_or(1).max(1);
    match &task.last {
        Some(last) if last.number == attempts => match attempt_state(task, last) {
            AttemptState::Running { trouble, started } => running(task, last, trouble, started, now),
            AttemptState::Succeeded { message, figures, time } => TaskPlan {
                figures,
                completed: Some(time.unwrap_or(now)),
                ..TaskPlan::new(WalTaskState::Succeeded, Reason::Succeeded, message)
            },
            AttemptState::Failed(failure) => after_failure(task, attempts, max, &failure, now),
        },
        _ => {
            let job = task.status.job_name.clone().unwrap_or_default();
            after_failure(task, attempts, max, &AttemptFailure::lost(&job), now)
        }
    }
}

/// How far the last attempt is.
pub(crate) fn attempt_state(task: &ObservedTask, last: &LastAttempt) -> AttemptState {
    let end = last.job.job.as_ref().and_then(|job| job.end.as_ref());
    let before = condition(&task.status.conditions, TaskConditionType::Complete);
    let before = before.and_then(|complete| Reason::parse(&complete.reason));
    attempt::state(&last.job.name, end, last.pod.as_deref(), before)
}

fn first_attempt(task: &ObservedTask, now: Timestamp) -> TaskPlan {
    let left = left(task.created, &task.spec.deadline, now);
    match admit(task, now) {
        AdmissionDecision::Refused(reason, message) => TaskPlan::ended(task, reason, message, now),
        AdmissionDecision::Waits(_, message) if left.is_zero() => {
            let deadline = &task.spec.deadline;
            let message = format!(
                "the task could not start within its deadline of {deadline}; nothing was done; its last wait: {message}"
            );
            let plan = TaskPlan::ended(task, Reason::DeadlineExceeded, message, now);
            TaskPlan { class: Some(TaskFailureClass::Deadline), ..plan }
        }
        AdmissionDecision::Waits(reason, message) => TaskPlan::waits(reason, message),
        AdmissionDecision::Admitted(_) => start(task, 1, span(&task.spec.deadline)),
    }
}

fn start(task: &ObservedTask, number: usize, time_limit: Duration) -> TaskPlan {
    let message = format!("attempt {number} of {} starts", task.spec.max_attempts);
    let step = TaskStep::Start { number, time_limit };
    TaskPlan { step, ..TaskPlan::new(WalTaskState::Pending, Reason::Pending, message) }
}

fn running(
    task: &ObservedTask,
    last: &LastAttempt,
    trouble: Option<(Reason, String)>,
    started: bool,
    now: Timestamp,
) -> TaskPlan {
    let job = &*last.job.name;
    if let Some((reason, message)) = gone(task) {
        return TaskPlan { step: TaskStep::Stop, ..TaskPlan::ended(task, reason, message, now) };
    }
    let deadline = span(&task.spec.deadline);
    let overdue = task.started().is_some_and(|first| now.duration_since(first) >= signed(deadline) + STOP_GRACE);
    if overdue {
        let before = condition(&task.status.conditions, TaskConditionType::Complete);
        let failure = attempt::out_of_time(job, before.and_then(|complete| Reason::parse(&complete.reason)), Some(now));
        let message =
            format!("{}; Kubernetes has not confirmed that its pod is gone: its node may be cut off", failure.message);
        let plan = TaskPlan::ended(task, failure.reason, message, now);
        return TaskPlan { step: TaskStep::Stop, class: Some(failure.class), ..plan };
    }
    let (attempt, max) = (last.number, task.spec.max_attempts);
    let (reason, message) = trouble.unwrap_or_else(|| {
        if started {
            (Reason::Running, format!("attempt {attempt} of {max} runs"))
        } else {
            (Reason::Starting, format!("attempt {attempt} of {max}: its pod starts"))
        }
    });
    let until = task.started().map(|first| {
        let left = signed(deadline) + STOP_GRACE - now.duration_since(first);
        Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
    });
    TaskPlan { class: task.status.failure_class, again: until, ..TaskPlan::new(WalTaskState::Running, reason, message) }
}

fn after_failure(
    task: &ObservedTask,
    attempts: usize,
    max: usize,
    failure: &AttemptFailure,
    now: Timestamp,
) -> TaskPlan {
    let class = Some(failure.class);
    let figures = failure.figures.clone();
    let failed = failure.time.unwrap_or(now);
    let ended = |reason, message| TaskPlan {
        class,
        figures: figures.clone(),
        completed: Some(failed),
        ..TaskPlan::ended(task, reason, message, now)
    };
    let AttemptFailure { reason, message, .. } = failure;
    if !failure.may_pass() {
        return ended(*reason, message.clone());
    }
    if attempts >= max {
        let tried = if max == 1 { "it was tried once".to_owned() } else { format!("it was tried {attempts} times") };
        return ended(*reason, format!("{message}; {tried}; remove the cause and make another task"));
    }
    let left = left(task.started(), &task.spec.deadline, now);
    if left.is_zero() {
        return ended(
            *reason,
            format!(
                "{message}; the task's deadline of {} has passed; give the next task a longer one",
                task.spec.deadline
            ),
        );
    }
    // A Job that is gone tells no time.
    let wait = failure.time.map_or(SignedDuration::ZERO, |failed| retry_wait(attempts) - now.duration_since(failed));
    if wait > SignedDuration::ZERO {
        let next = attempts + 1;
        let message = format!("attempt {attempts} of {max} failed: {message}; attempt {next} follows");
        let again = Duration::try_from(wait).ok();
        return TaskPlan { class, again, ..TaskPlan::new(WalTaskState::Pending, Reason::AttemptFailed, message) };
    }
    match admit(task, now) {
        AdmissionDecision::Admitted(_) => TaskPlan { class, ..start(task, attempts + 1, left) },
        AdmissionDecision::Waits(reason, message) => TaskPlan { class, ..TaskPlan::waits(reason, message) },
        AdmissionDecision::Refused(reason, why) => {
            ended(reason, format!("{why}; attempt {attempts} had failed: {message}"))
        }
    }
}

fn retry_wait(attempts: usize) -> SignedDuration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    FIRST_RETRY.saturating_mul(1 << doublings).min(MAX_RETRY)
}

impl ObservedTask {
    /// Whether its deadline has not passed.
    pub(crate) fn is_in_time(&self, now: Timestamp) -> bool {
        !left(self.started(), &self.spec.deadline, now).is_zero()
    }
}

/// How much is left of a span that began at `since`.
fn left(since: Option<Timestamp>, limit: &TimeSpan, now: Timestamp) -> Duration {
    let spent = since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
    Duration::try_from(signed(span(limit)) - spent).unwrap_or_default()
}

/// When a task that has ended is deleted.
pub(crate) fn expires_in(spec: &WalTaskSpec, status: &WalTaskStatus, now: Timestamp) -> Duration {
    let ended = status.completion_time.as_ref().map(|time| time.0);
    left(ended, &spec.ttl_after_finished, now)
}

fn span(span: &TimeSpan) -> Duration {
    span.duration().unwrap_or(UNREADABLE_SPAN)
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}
