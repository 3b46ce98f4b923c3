//! What may still write for a WAL: Jobs and pods, whatever became of their tasks.

use jiff::Timestamp;
use tidemark_crds::TaskType;

use super::{
    job_pod::JobPod,
    object_cache::OwnedObjects,
    owned_object::{ChildKind, OwnedObject},
};

/// An attempt of a task that may still do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveAttempt {
    /// Name of the task, which may be gone.
    pub(crate) task: Box<str>,
    /// Whether it may write to the WAL's index, archive or log.
    pub(crate) writes: bool,
    /// Name of its pod, if its Job has ended or is gone.
    pub(crate) pod: Option<Box<str>>,
}

impl ActiveAttempt {
    /// That of a Job, if it has not ended at `now`.
    fn of_job(child: &OwnedObject, now: Timestamp) -> Option<Self> {
        let job = child.job.as_ref().filter(|job| child.kind == ChildKind::Job && job.is_active(now))?;
        Some(Self { task: job.task.clone(), writes: may_write(job.task_type), pod: None })
    }

    /// That of a pod, if it has not ended at `now`.
    pub(crate) fn of_pod(pod: &JobPod, now: Timestamp) -> Option<Self> {
        let JobPod { name, task, task_type, .. } = pod;
        let attempt = Self { task: task.clone(), writes: may_write(*task_type), pod: Some(Box::from(&**name)) };
        pod.is_active(now).then_some(attempt)
    }
}

/// The attempts of tasks that may still do something at `now`: Jobs first.
pub(crate) fn active_attempts(owned: &OwnedObjects, now: Timestamp) -> impl Iterator<Item = ActiveAttempt> {
    let jobs = owned.children.values().filter_map(move |child| ActiveAttempt::of_job(child, now));
    jobs.chain(owned.job_pods.values().filter_map(move |pod| ActiveAttempt::of_pod(pod, now)))
}

/// The first of them that writes.
pub(crate) fn writing_attempt(owned: &OwnedObjects, now: Timestamp) -> Option<ActiveAttempt> {
    active_attempts(owned, now).find(|attempt| attempt.writes)
}

/// What a newer release runs may write.
fn may_write(of_type: Option<TaskType>) -> bool {
    of_type.is_none_or(|of_type| of_type.command().writes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{NamespacedName, ObjectCache};

    const NOW: &str = "2026-11-28T10:00:00Z";

    fn labels(task_type: &str) -> Value {
        json!({"tidemark.dev/wal": "orders", "tidemark.dev/task": "nightly", "tidemark.dev/task-type": task_type})
    }

    fn put_job(cache: &ObjectCache, task_type: &str, end: Option<&str>) {
        let conditions = end.map(|end| json!([{"type": end, "status": "True"}]));
        let job = json!({
            "metadata": {
                "namespace": "data", "name": "nightly-1", "uid": "j", "resourceVersion": "1", "labels": labels(task_type),
            },
            "status": {"conditions": conditions},
        });
        cache.put_child(OwnedObject::read(ChildKind::Job, job).unwrap());
    }

    fn put_pod(cache: &ObjectCache, phase: &str) {
        let pod = json!({
            "metadata": {"namespace": "data", "name": "nightly-1-x", "uid": "p", "labels": labels("GC")},
            "status": {"phase": phase},
        });
        cache.put_job_pod(JobPod::read(&serde_json::from_value(pod).unwrap()).unwrap());
    }

    /// The name of the pod that still writes, or of its task while its Job has not ended.
    fn writing(cache: &ObjectCache) -> Option<String> {
        let owned = cache.owned(&NamespacedName::new("data", "orders"));
        writing_attempt(&owned, NOW.parse().unwrap()).map(|attempt| attempt.pod.unwrap_or(attempt.task).into())
    }

    #[test]
    fn a_job_counts_until_it_ends_and_its_pod_until_that_ends() {
        let cache = ObjectCache::default();
        assert_eq!(writing(&cache), None);
        put_job(&cache, "GC", None);
        assert_eq!(writing(&cache).as_deref(), Some("nightly"));
        put_pod(&cache, "Running");
        put_job(&cache, "GC", Some("FailureTarget"));
        assert_eq!(writing(&cache).as_deref(), Some("nightly-1-x"), "the Job is to fail, and its pod ends");
        cache.remove_child(ChildKind::Job, "data", "nightly-1");
        assert_eq!(writing(&cache).as_deref(), Some("nightly-1-x"), "somebody deleted the Job");
        put_pod(&cache, "Failed");
        assert_eq!(writing(&cache), None);
    }

    #[test]
    fn what_only_reads_is_in_nobodys_way_and_what_a_newer_release_runs_is() {
        for (task_type, writes) in [("Verify", false), ("Cleanup", true), ("Defragment", true)] {
            let cache = ObjectCache::default();
            put_job(&cache, task_type, None);
            assert_eq!(writing(&cache).is_some(), writes, "{task_type}");
        }
    }
}
