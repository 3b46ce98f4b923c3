//! A pod of a Job, as far as the operator needs it: what keeps it from running, and how it ended.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use tidemark_crds::{TaskType, names};

use super::{
    data_pod::{PodTrouble, pod_trouble},
    job_status::NODE_LOST_AFTER,
    namespaced_name::NamespacedName,
};
use crate::reconcile_queues::ReconcileTarget;

/// A pod of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobPod {
    pub(crate) wal: NamespacedName,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Box<str>,
    /// Name of the task that its Job is an attempt of.
    pub(crate) task: Box<str>,
    /// Type of the task; `None` if this release does not know it.
    pub(crate) task_type: Option<TaskType>,
    /// UID of its Job; empty if it has lost it.
    pub(crate) job_uid: Box<str>,
    /// Whether none of its containers will run again.
    pub(crate) ended: bool,
    /// When it is to be gone, if it is being deleted: its grace period ends then.
    pub(crate) gone_at: Option<Timestamp>,
    /// Whether its container runs, or has run.
    pub(crate) started: bool,
    /// What keeps it from running.
    pub(crate) trouble: Option<PodTrouble>,
    /// Why the cluster takes it away, if it does.
    pub(crate) disruption: Option<PodDisruption>,
    /// How its container ended, if it did.
    pub(crate) exit: Option<ContainerExit>,
}

/// Why the cluster takes a pod away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodDisruption {
    /// Whether it had to make place for a more important pod.
    pub(crate) preempted: bool,
    /// The cluster's words.
    pub(crate) message: Box<str>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerExit {
    pub(crate) code: i32,
    /// One word, such as `OOMKilled`.
    pub(crate) reason: Box<str>,
    /// The termination message: the result of the job, or the last lines of its log.
    pub(crate) message: Box<str>,
}

impl JobPod {
    /// The object that has to be reconciled when it changes.
    pub(crate) fn target(&self) -> ReconcileTarget {
        ReconcileTarget::new(names::TASK_KIND, NamespacedName::new(&self.wal.namespace, &self.task))
    }

    /// Whether it has ended or is being deleted: why it ends is known by then.
    pub(crate) fn is_ending(&self) -> bool {
        self.ended || self.gone_at.is_some()
    }

    /// Whether its program may still do something at `now`. A pod that should be gone for so long is on a node that is cut off: nobody
    /// knows, and what it writes is fenced by the catalog.
    pub(crate) fn is_active(&self, now: Timestamp) -> bool {
        !self.ended && self.gone_at.is_none_or(|gone| now.duration_since(gone) < NODE_LOST_AFTER)
    }

    /// Reads a pod; `None` when it is no pod of a task of ours.
    pub(crate) fn read(pod: &core::Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let labels = metadata.labels.as_ref()?;
        let task = labels.get(names::LABEL_TASK)?;
        let mut owners = metadata.owner_references.iter().flatten();
        let job = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Job");
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let container = status.and_then(|status| status.container_statuses.iter().flatten().next());
        let state = container.and_then(|container| container.state.as_ref());
        let exit = state.and_then(|state| state.terminated.as_ref()).map(|end| ContainerExit {
            code: end.exit_code,
            reason: end.reason.as_deref().unwrap_or("Error").into(),
            message: end.message.as_deref().unwrap_or_default().into(),
        });
        Some(Self {
            wal: NamespacedName::new(metadata.namespace.as_deref()?, labels.get(names::LABEL_WAL)?),
            name: metadata.name.as_deref()?.into(),
            uid: metadata.uid.as_deref()?.into(),
            task: task.as_str().into(),
            task_type: labels.get(names::LABEL_TASK_TYPE).and_then(|name| TaskType::parse(name)),
            job_uid: job.map_or("", |job| job.uid.as_str()).into(),
            ended: exit.is_some() || matches!(phase, Some("Succeeded" | "Failed")),
            gone_at: metadata.deletion_timestamp.as_ref().map(|gone| gone.0),
            started: exit.is_some() || state.is_some_and(|state| state.running.is_some()),
            trouble: status.filter(|_| exit.is_none()).and_then(pod_trouble),
            disruption: status.and_then(disruption),
            exit,
        })
    }
}

fn disruption(status: &core::PodStatus) -> Option<PodDisruption> {
    if status.reason.as_deref() == Some("Evicted") {
        let message = status.message.as_deref().unwrap_or("the kubelet gave no cause");
        return Some(PodDisruption { preempted: false, message: message.trim().trim_end_matches('.').into() });
    }
    let mut conditions = status.conditions.iter().flatten();
    let target = conditions.find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")?;
    let reason = target.reason.as_deref().unwrap_or_default();
    let message = target.message.as_deref().unwrap_or(reason);
    Some(PodDisruption { preempted: reason == "PreemptionByScheduler", message: message.trim_end_matches('.').into() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Value {
        json!({
            "metadata": {
                "name": "nightly-1-x", "namespace": "data", "uid": "p",
                "labels": {"tidemark.dev/wal": "orders", "tidemark.dev/task": "nightly", "tidemark.dev/task-type": "GC"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-1", "uid": "j", "controller": true}],
            },
            "status": status,
        })
    }

    fn read_pod(pod: Value) -> JobPod {
        JobPod::read(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn read(status: &Value) -> JobPod {
        read_pod(pod(status))
    }

    #[test]
    fn a_pod_is_active_until_its_container_ended_or_its_node_is_given_up() {
        let now: Timestamp = "2026-11-28T10:00:00Z".parse().unwrap();
        let active = |status: Value, gone_at: Option<&str>| {
            let mut pod = pod(&status);
            pod["metadata"]["deletionTimestamp"] = json!(gone_at);
            read_pod(pod).is_active(now)
        };
        let running = || json!({"phase": "Running"});
        let terminated = json!([{"name": "job", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}}}]);
        assert!(active(running(), None) && active(json!({"phase": "Pending"}), None) && active(json!({}), None));
        assert!(!active(json!({"phase": "Succeeded"}), None) && !active(json!({"phase": "Failed"}), None));
        assert!(!active(json!({"phase": "Running", "containerStatuses": terminated}), None));
        // It has its grace period, and ends.
        assert!(active(running(), Some("2026-11-28T10:00:30Z")) && active(running(), Some("2026-11-28T09:58:01Z")));
        assert!(!active(running(), Some("2026-11-28T09:58:00Z")), "its node is cut off");
    }

    #[test]
    fn a_pod_that_lost_its_job_is_one_all_the_same() {
        let mut orphan = pod(&json!({"phase": "Running"}));
        orphan["metadata"]["ownerReferences"] = json!([]);
        let orphan = read_pod(orphan);
        assert_eq!((&*orphan.task, orphan.task_type, &*orphan.job_uid), ("nightly", Some(TaskType::GC), ""));
    }

    #[test]
    fn the_end_of_its_container_is_kept() {
        let container = |state: Value| json!([{"name": "job", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state}]);
        let pod = read(
            &json!({"phase": "Pending", "containerStatuses": container(json!({"waiting": {"reason": "ImagePullBackOff"}}))}),
        );
        assert_eq!((pod.started, pod.trouble), (false, Some(PodTrouble::Image("i".into()))));
        let pod = read(&json!({
            "phase": "Failed",
            "containerStatuses": container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "so far"}})),
        }));
        let exit = ContainerExit { code: 137, reason: "OOMKilled".into(), message: "so far".into() };
        assert_eq!((pod.started, &pod.exit, &*pod.job_uid), (true, &Some(exit), "j"));
        assert_eq!(pod.target().key, NamespacedName::new("data", "nightly"));
    }

    #[test]
    fn a_pod_that_is_taken_away_says_by_whom() {
        let target = |reason: &str| {
            read(&json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "so."}]}))
                .disruption
                .map(|disruption| (disruption.preempted, disruption.message.to_string()))
        };
        assert_eq!(target("PreemptionByScheduler"), Some((true, "so".to_owned())));
        assert_eq!(target("DeletionByTaintManager"), Some((false, "so".to_owned())));
        let evicted =
            read(&json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}));
        assert_eq!(&*evicted.disruption.unwrap().message, "The node was low on resource: memory");
        assert_eq!(read(&json!({"phase": "Running"})).disruption, None);
    }
}
