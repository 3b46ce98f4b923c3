//! How far a Job is, and which task it is an attempt of.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tidemark_crds::{TaskType, names};

/// A pod that should be gone for so long is on a node that is cut off: nobody confirms that it has ended, and it may stay forever.
pub(super) const NODE_LOST_AFTER: SignedDuration = SignedDuration::from_mins(2);
/// Annotation of a Job: `metadata.generation` of the WAL that it was made from.
pub(crate) const ANNOTATION_WAL_GENERATION: &str = "tidemark.dev/wal-generation";

/// How far a Job is, and which task it is an attempt of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobStatus {
    /// Name of the task.
    pub(crate) task: Box<str>,
    /// Type of the task; `None` if this release does not know it.
    pub(crate) task_type: Option<TaskType>,
    /// UID of the WAL that it was made for.
    pub(crate) wal_uid: Box<str>,
    /// When it was deleted, if it was: it stays until its pods are gone.
    pub(crate) deleted: Option<Timestamp>,
    /// `metadata.generation` of that WAL.
    pub(crate) wal_generation: Option<i64>,
    /// What its pod runs.
    pub(crate) image: Box<str>,
    /// When it was made, by the API server's clock.
    pub(crate) created: Option<Timestamp>,
    /// How it ended, if it did.
    pub(crate) end: Option<JobEnd>,
}

/// How a Job ended, as Kubernetes says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobEnd {
    /// Whether its pod ended with exit code 0.
    pub(crate) succeeded: bool,
    /// One word, such as `DeadlineExceeded`.
    pub(crate) reason: Box<str>,
    pub(crate) message: Box<str>,
    /// When it was decided, by the cluster's clock.
    pub(crate) time: Option<Timestamp>,
}

impl JobStatus {
    /// Whether it may have a pod that is not known yet. Those that are known count by themselves: one on a node that is cut off keeps a
    /// Job that was deleted.
    pub(crate) fn is_active(&self, now: Timestamp) -> bool {
        self.end.is_none() && self.deleted.is_none_or(|deleted| now.duration_since(deleted) < NODE_LOST_AFTER)
    }

    /// Reads a Job of the API server.
    pub(super) fn read(object: &Value) -> Self {
        let label = |name: &str| object.pointer("/metadata/labels").and_then(|labels| labels[name].as_str());
        let annotation =
            object.pointer("/metadata/annotations").and_then(|all| all[ANNOTATION_WAL_GENERATION].as_str());
        let image = object.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str);
        Self {
            task: label(names::LABEL_TASK).unwrap_or_default().into(),
            task_type: label(names::LABEL_TASK_TYPE).and_then(TaskType::parse),
            wal_uid: label(names::LABEL_WAL_UID).unwrap_or_default().into(),
            deleted: object.pointer("/metadata/deletionTimestamp").and_then(time),
            wal_generation: annotation.and_then(|generation| generation.parse().ok()),
            image: image.unwrap_or_default().into(),
            created: object.pointer("/metadata/creationTimestamp").and_then(time),
            end: end(object),
        }
    }
}

/// A Job that is to fail gets `Failed` only when its pods are gone, and `FailureTarget` at once: a pod on a node that is cut off may
/// stay forever.
fn end(object: &Value) -> Option<JobEnd> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let holds = |kind: &str| conditions.iter().find(|one| one["type"] == kind && one["status"] == "True");
    let (succeeded, condition) = match holds("Complete") {
        Some(complete) => (true, complete),
        None => (false, holds("Failed").or_else(|| holds("FailureTarget"))?),
    };
    let text = |field: &str| condition[field].as_str().unwrap_or_default().into();
    Some(JobEnd {
        succeeded,
        reason: text("reason"),
        message: text("message"),
        time: time(&condition["lastTransitionTime"]),
    })
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(conditions: &Value) -> JobStatus {
        JobStatus::read(&json!({
            "metadata": {
                "creationTimestamp": "2026-11-28T10:00:00Z", "annotations": {"tidemark.dev/wal-generation": "4"},
                "labels": {"tidemark.dev/task": "nightly", "tidemark.dev/task-type": "Snapshot", "tidemark.dev/wal-uid": "w"},
            },
            "spec": {"template": {"spec": {"containers": [{"name": "job", "image": "i@sha256:0"}]}}},
            "status": {"conditions": conditions},
        }))
    }

    #[test]
    fn a_job_ends_when_kubernetes_says_so() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-11-28T11:00:00Z"});
        let end = |conditions: Value| read(&conditions).end.map(|end| end.succeeded);
        assert_eq!(end(json!([])), None);
        assert_eq!(end(json!([condition("Suspended", "True"), condition("Failed", "False")])), None);
        assert_eq!(end(json!([condition("SuccessCriteriaMet", "True"), condition("Complete", "True")])), Some(true));
        assert_eq!(end(json!([condition("FailureTarget", "True"), condition("Failed", "True")])), Some(false));
        assert_eq!(
            end(json!([condition("FailureTarget", "True")])),
            Some(false),
            "its pod is on a node that is cut off"
        );
    }

    #[test]
    fn a_job_says_what_it_is_an_attempt_of() {
        let job = read(&Value::Null);
        assert_eq!((&*job.task, job.task_type, &*job.wal_uid), ("nightly", Some(TaskType::Snapshot), "w"));
        assert_eq!((job.wal_generation, &*job.image), (Some(4), "i@sha256:0"));
    }

    #[test]
    fn a_job_that_was_deleted_is_active_for_as_long_as_its_pods_may_be_unknown() {
        let now: Timestamp = "2026-11-28T10:00:00Z".parse().unwrap();
        let job = |deleted: Option<&str>, conditions: Value| {
            JobStatus::read(&json!({"metadata": {"deletionTimestamp": deleted}, "status": {"conditions": conditions}}))
        };
        let complete = json!([{"type": "Complete", "status": "True"}]);
        assert!(job(None, Value::Null).is_active(now) && !job(None, complete).is_active(now));
        assert!(job(Some("2026-11-28T09:58:01Z"), Value::Null).is_active(now));
        assert!(!job(Some("2026-11-28T09:58:00Z"), Value::Null).is_active(now), "its pod is on a node that is cut off");
    }
}
