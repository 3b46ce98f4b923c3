//! How far an attempt is: what its Job and its pod say, without a request.

use jiff::Timestamp;
use tidemark_crds::{Reason, TaskFailureClass, TaskFigures, TaskResult, TaskState};

use crate::cache::{ContainerExit, JobEnd, JobPod, PodDisruption, PodTrouble};

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AttemptState {
    /// Its Job has not ended.
    Running {
        /// What keeps its pod from running.
        trouble: Option<(Reason, String)>,
        /// Whether its program has started.
        started: bool,
    },
    Succeeded {
        message: String,
        figures: Option<TaskFigures>,
        time: Option<Timestamp>,
    },
    Failed(AttemptFailure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptFailure {
    pub(crate) class: TaskFailureClass,
    pub(crate) reason: Reason,
    /// The fact and the remedy.
    pub(crate) message: String,
    pub(crate) figures: Option<TaskFigures>,
    /// When, by the cluster's clock.
    pub(crate) time: Option<Timestamp>,
}

impl AttemptFailure {
    /// Whether another attempt may succeed. One that was refused would be refused again, damage that was found is still there, also where
    /// another attempt may look elsewhere, and after the deadline there is no time.
    pub(crate) fn may_pass(&self) -> bool {
        let is_found = matches!(
            self.reason,
            Reason::IndexDamaged | Reason::ArchiveDamaged | Reason::OutcomesDiffer | Reason::DrillFailed
        ) || self.figures.as_ref().is_some_and(has_damage);
        self.class != TaskFailureClass::Refused && self.reason != Reason::DeadlineExceeded && !is_found
    }

    /// An attempt of which nothing is left: somebody deleted its Job.
    pub(crate) fn lost(job: &str) -> Self {
        Self {
            class: TaskFailureClass::Crashed,
            reason: Reason::JobLost,
            message: format!("Job \"{job}\" is gone before its result was read; whether it did its work is not known"),
            figures: None,
            time: None,
        }
    }
}

/// Kubernetes's reason of a Job that it stopped at its deadline.
const OUT_OF_TIME: &str = "DeadlineExceeded";

/// How far the attempt `job` is. `before` is what kept its pod from running when it was looked at last: the pod of a Job that was
/// stopped at its deadline is gone.
pub(crate) fn state(job: &str, end: Option<&JobEnd>, pod: Option<&JobPod>, before: Option<Reason>) -> AttemptState {
    // Jobs and pods are watched one by one: that its Job has failed may be known before what happened to the pod is.
    let is_explained =
        |end: &&JobEnd| end.succeeded || &*end.reason == OUT_OF_TIME || pod.is_none_or(JobPod::is_ending);
    let Some(end) = end.filter(is_explained) else {
        return AttemptState::Running { trouble: pod.and_then(trouble), started: pod.is_some_and(|pod| pod.started) };
    };
    let exit = pod.and_then(|pod| pod.exit.as_ref());
    let result = exit.and_then(|exit| TaskResult::from_json(&exit.message).ok());
    match result {
        Some(TaskResult { state: TaskState::Succeeded, message, figures, .. }) if end.succeeded => {
            AttemptState::Succeeded { message, figures: Some(figures), time: end.time }
        }
        None if end.succeeded => AttemptState::Succeeded {
            message: "the job succeeded and left no result".to_owned(),
            figures: None,
            time: end.time,
        },
        result => AttemptState::Failed(failure(job, end, pod, before, result)),
    }
}

fn failure(
    job: &str,
    end: &JobEnd,
    pod: Option<&JobPod>,
    before: Option<Reason>,
    result: Option<TaskResult>,
) -> AttemptFailure {
    let failure =
        |class, reason, message: String| AttemptFailure { class, reason, message, figures: None, time: end.time };
    let with_result = |class, reason, result: TaskResult| AttemptFailure {
        figures: Some(result.figures),
        ..failure(class, result.reason.unwrap_or(reason), result.message)
    };
    // A refusal is the program's own, however its pod ended afterwards.
    let result = match result {
        Some(result) if result.state == TaskState::Refused => {
            return with_result(TaskFailureClass::Refused, Reason::Internal, result);
        }
        // What was found counts, whatever became of the pod.
        Some(result) if has_damage(&result.figures) => {
            return with_result(TaskFailureClass::Failed, Reason::Internal, result);
        }
        result => result,
    };
    if &*end.reason == OUT_OF_TIME {
        return out_of_time(job, before, end.time);
    }
    if let Some((pod, PodDisruption { preempted, message })) = pod.and_then(|pod| Some((pod, pod.disruption.as_ref()?)))
    {
        let (class, reason, what) = if *preempted {
            (TaskFailureClass::Preempted, Reason::PodPreempted, "had to make place for a more important one")
        } else {
            (TaskFailureClass::Evicted, Reason::PodEvicted, "was taken away by the cluster")
        };
        return failure(class, reason, format!("pod \"{}\" {what}: {message}", pod.name));
    }
    let done = match result {
        // A snapshot reports before it counts the log. The next attempt finds what is done.
        Some(result) if result.state == TaskState::Succeeded => Some(result.message),
        Some(result) => return with_result(TaskFailureClass::Failed, Reason::Internal, result),
        None => None,
    };
    if let Some((pod, exit)) = pod.and_then(|pod| Some((pod, pod.exit.as_ref()?))) {
        failure(TaskFailureClass::Crashed, Reason::JobCrashed, crashed(pod, exit, done.as_deref()))
    } else {
        let why = if end.message.is_empty() { String::new() } else { format!(" ({})", end.message) };
        failure(
            TaskFailureClass::Crashed,
            Reason::JobLost,
            format!("the pod of Job \"{job}\" is gone before its result was read{why}"),
        )
    }
}

/// A Job that was stopped at its deadline.
pub(crate) fn out_of_time(job: &str, before: Option<Reason>, time: Option<Timestamp>) -> AttemptFailure {
    let (class, why) = match before {
        Some(Reason::PodUnschedulable) => (
            TaskFailureClass::Unschedulable,
            "no node took its pod; add capacity, or request less in \"spec.jobs.resources\" of the WAL",
        ),
        Some(Reason::ImageNotFound) => (
            TaskFailureClass::ImageNotFound,
            "its image could not be pulled; correct the image, or give imagePullSecrets in \"spec.jobs.podTemplate\" of the WAL",
        ),
        _ => (TaskFailureClass::Deadline, "give the next task a longer \"spec.deadline\""),
    };
    AttemptFailure {
        class,
        reason: Reason::DeadlineExceeded,
        message: format!("Job \"{job}\" was stopped at the task's deadline: {why}"),
        figures: None,
        time,
    }
}

fn has_damage(figures: &TaskFigures) -> bool {
    figures.damaged.is_some_and(|damaged| damaged > 0)
}

/// `done` is what it has reported as done.
fn crashed(pod: &JobPod, exit: &ContainerExit, done: Option<&str>) -> String {
    let ContainerExit { code, reason, message } = exit;
    let how = if done.is_some() { "after its work was done" } else { "without a result" };
    let last = done.or_else(|| message.lines().rev().find(|line| !line.trim().is_empty()));
    let last = last.map_or_else(String::new, |line| format!(": {}", line.trim()));
    let memory = if &**reason == "OOMKilled" { "; raise the memory in \"spec.jobs.resources\" of the WAL" } else { "" };
    format!("the program of pod \"{}\" ended {how} ({reason}, exit code {code}){last}{memory}", pod.name)
}

fn trouble(pod: &JobPod) -> Option<(Reason, String)> {
    let name = &pod.name;
    Some(match pod.trouble.as_ref()? {
        PodTrouble::Unschedulable(why) => (
            Reason::PodUnschedulable,
            format!(
                "no node takes pod \"{name}\": {why}; it waits until the task's deadline; add capacity, or request less in \"spec.jobs.resources\" of the WAL"
            ),
        ),
        PodTrouble::Image(image) => (
            Reason::ImageNotFound,
            format!(
                "the image \"{image}\" of pod \"{name}\" cannot be pulled; it waits until the task's deadline; correct the image, or give imagePullSecrets in \"spec.jobs.podTemplate\" of the WAL"
            ),
        ),
        PodTrouble::Config(why) => (
            Reason::PodRefused,
            format!(
                "the container of pod \"{name}\" cannot be created: {why}; it waits until the task's deadline; remove the cause"
            ),
        ),
        PodTrouble::Crashing(how) => (
            Reason::PodCrashing,
            format!("the program of pod \"{name}\" crashes repeatedly ({how}); it waits; read its log"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::NamespacedName;

    fn end(succeeded: bool, reason: &str) -> JobEnd {
        JobEnd { succeeded, reason: reason.into(), message: "".into(), time: None }
    }

    fn pod(exit: Option<(i32, &str, &str)>, preempted: Option<bool>) -> JobPod {
        JobPod {
            wal: NamespacedName::new("data", "orders"),
            name: "nightly-1-x".into(),
            uid: "p".into(),
            task: "nightly".into(),
            task_type: None,
            job_uid: "j".into(),
            ended: true,
            gone_at: None,
            started: exit.is_some(),
            trouble: None,
            disruption: preempted.map(|preempted| PodDisruption { preempted, message: "so".into() }),
            exit: exit.map(|(code, reason, message)| ContainerExit {
                code,
                reason: reason.into(),
                message: message.into(),
            }),
        }
    }

    fn failed(end: &JobEnd, pod: Option<&JobPod>, before: Option<Reason>) -> (TaskFailureClass, Reason, bool) {
        match state("nightly-1", Some(end), pod, before) {
            AttemptState::Failed(failure) => (failure.class, failure.reason, failure.may_pass()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_end_of_a_job_has_its_class() {
        use TaskFailureClass::{Crashed, Deadline, Evicted, Failed, ImageNotFound, Preempted, Refused, Unschedulable};
        let result = |state: &str| format!(r#"{{"state":"{state}","reason":"AccessDenied","message":"no"}}"#);
        let (failed_result, refused_result, good_result) = (result("failed"), result("refused"), result("succeeded"));
        let crash = end(false, "BackoffLimitExceeded");
        let late = end(false, "DeadlineExceeded");
        let cases = [
            (&crash, Some(pod(Some((1, "Error", &failed_result)), None)), None, (Failed, Reason::AccessDenied, true)),
            (
                &crash,
                Some(pod(Some((1, "Error", &refused_result)), None)),
                None,
                (Refused, Reason::AccessDenied, false),
            ),
            // It was evicted while it refused; the next attempt would be refused as well.
            (
                &crash,
                Some(pod(Some((1, "Error", &refused_result)), Some(false))),
                None,
                (Refused, Reason::AccessDenied, false),
            ),
            (
                &crash,
                Some(pod(Some((143, "Error", &failed_result)), Some(false))),
                None,
                (Evicted, Reason::PodEvicted, true),
            ),
            (&crash, Some(pod(None, Some(true))), None, (Preempted, Reason::PodPreempted, true)),
            (&crash, Some(pod(Some((137, "OOMKilled", "")), None)), None, (Crashed, Reason::JobCrashed, true)),
            (
                &crash,
                Some(pod(Some((101, "Error", "thread panicked")), None)),
                None,
                (Crashed, Reason::JobCrashed, true),
            ),
            // The exit code counts.
            (&crash, Some(pod(Some((1, "Error", &good_result)), None)), None, (Crashed, Reason::JobCrashed, true)),
            (&crash, None, None, (Crashed, Reason::JobLost, true)),
            (&late, None, Some(Reason::Running), (Deadline, Reason::DeadlineExceeded, false)),
            (&late, None, Some(Reason::PodUnschedulable), (Unschedulable, Reason::DeadlineExceeded, false)),
            (&late, None, Some(Reason::ImageNotFound), (ImageNotFound, Reason::DeadlineExceeded, false)),
            (
                &crash,
                Some(pod(Some((8, "Error", r#"{"state":"failed","reason":"IndexDamaged"}"#)), None)),
                None,
                (Failed, Reason::IndexDamaged, false),
            ),
            // Found is found: the next attempt may look elsewhere.
            (
                &crash,
                Some(pod(
                    Some((143, "Error", r#"{"state":"failed","reason":"IndexDamaged","damaged":2}"#)),
                    Some(false),
                )),
                None,
                (Failed, Reason::IndexDamaged, false),
            ),
            (
                &late,
                Some(pod(Some((8, "Error", r#"{"state":"failed","reason":"ArchiveDamaged","damaged":2}"#)), None)),
                None,
                (Failed, Reason::ArchiveDamaged, false),
            ),
            (
                &crash,
                Some(pod(Some((8, "Error", r#"{"state":"failed","reason":"OfALaterRelease","damaged":1}"#)), None)),
                None,
                (Failed, Reason::Internal, false),
            ),
            // A program that says that it failed, and goes on.
            (
                &end(true, ""),
                Some(pod(Some((0, "Completed", &failed_result)), None)),
                None,
                (Failed, Reason::AccessDenied, true),
            ),
        ];
        for (case, (end, pod, before, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(failed(end, pod.as_ref(), before), wanted, "case {case}");
        }
    }

    #[test]
    fn the_result_is_what_the_program_left() {
        let message = r#"{"state":"succeeded","message":"archived","entries":7}"#;
        let state_of = |pod: Option<&JobPod>| state("nightly-1", Some(&end(true, "")), pod, None);
        let AttemptState::Succeeded { message, figures, .. } =
            state_of(Some(&pod(Some((0, "Completed", message)), None)))
        else {
            panic!()
        };
        assert_eq!((message.as_str(), figures.unwrap().entries), ("archived", Some(7)));
        let none = state_of(Some(&pod(Some((0, "Completed", "a line of its log")), None)));
        assert!(matches!(none, AttemptState::Succeeded { figures: None, .. }));
        assert!(matches!(state_of(None), AttemptState::Succeeded { .. }), "Kubernetes says that it ended well");
    }

    #[test]
    fn a_pod_that_is_taken_away_is_no_failure_before_kubernetes_says_so() {
        let cut_off = pod(None, Some(false));
        let running = state("nightly-1", None, Some(&cut_off), None);
        assert_eq!(running, AttemptState::Running { trouble: None, started: false });
    }

    #[test]
    fn a_failed_job_is_not_judged_before_the_end_of_its_pod_is_seen() {
        let (crash, late) = (end(false, "BackoffLimitExceeded"), end(false, OUT_OF_TIME));
        let unseen = JobPod { started: true, ended: false, ..pod(None, None) };
        let judged = |end| state("nightly-1", Some(end), Some(&unseen), None);
        assert_eq!(judged(&crash), AttemptState::Running { trouble: None, started: true });
        assert!(matches!(judged(&late), AttemptState::Failed(_)), "the deadline explains it");
        let deleted = JobPod { gone_at: Some(Timestamp::UNIX_EPOCH), ..unseen.clone() };
        assert_eq!(failed(&crash, Some(&deleted), None), (TaskFailureClass::Crashed, Reason::JobLost, true));
    }

    #[test]
    fn the_last_line_of_a_crash_and_the_remedy_are_told() {
        let killed = pod(Some((137, "OOMKilled", "one\nread 7 of 9\n\n")), None);
        let AttemptState::Failed(failure) = state("nightly-1", Some(&end(false, "")), Some(&killed), None) else {
            panic!()
        };
        assert_eq!(
            failure.message,
            "the program of pod \"nightly-1-x\" ended without a result (OOMKilled, exit code 137): read 7 of 9; raise the memory in \
             \"spec.jobs.resources\" of the WAL"
        );
    }
}
