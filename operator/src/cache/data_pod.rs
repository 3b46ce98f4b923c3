//! A pod of a WAL, as far as the operator needs it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use tidemark_crds::names::{self, WalComponent};

use super::namespaced_name::NamespacedName;
use crate::reconcile_queues::ReconcileTarget;

/// A container that was restarted this often and has not been ready since counts as crashing, whatever its present state is.
const CRASH_RESTARTS: i32 = 3;
/// A pod that stops to be ready later than this after a container's start was ready with that container. The kubelet may say only then
/// that the container before is not ready any more.
const READINESS_DELAY: SignedDuration = SignedDuration::from_secs(10);

/// A data pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataPod {
    pub(crate) wal: NamespacedName,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Box<str>,
    /// UID of the WAL that it was made for.
    pub(crate) wal_uid: Box<str>,
    pub(crate) component: WalComponent,
    /// What its container runs: by digest where the kubelet says it, else as the pod names it.
    pub(crate) image: Option<Box<str>>,
    /// Where it can be polled, once its container runs.
    pub(crate) address: Option<Box<str>>,
    pub(crate) terminating: bool,
    /// When it was made, by the API server's clock.
    pub(crate) created: Option<Timestamp>,
    /// Whether its container was started again.
    pub(crate) restarted: bool,
    /// What keeps it from running.
    pub(crate) trouble: Option<PodTrouble>,
    /// How its node removed it. Such a pod is kept, and never runs again.
    pub(crate) eviction: Option<PodEviction>,
}

/// How a node removed a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodEviction {
    /// When, by the node's clock; when the pod was made if that is not known.
    pub(crate) time: Option<Timestamp>,
    /// The kubelet's words.
    pub(crate) message: Box<str>,
    /// Whether a pod of the same role that was made later has run since, as far as this operator has seen.
    pub(crate) replaced: bool,
}

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodTrouble {
    /// No node takes it.
    Unschedulable(Box<str>),
    /// This image cannot be pulled.
    Image(Box<str>),
    /// Its container cannot be created.
    Config(Box<str>),
    /// Its program crashes repeatedly, last in this way.
    Crashing(Box<str>),
}

impl DataPod {
    /// Whether it has taken the place of an evicted pod: it runs, is another one of the same role, and was not made before.
    pub(super) fn replaces(&self, evicted: &Self) -> bool {
        let runs = self.eviction.is_none() && self.address.is_some();
        let is_other = self.uid != evicted.uid && self.component == evicted.component;
        runs && is_other && self.created >= evicted.created
    }

    /// The object that has to be reconciled when it changes.
    pub(crate) fn target(&self) -> ReconcileTarget {
        ReconcileTarget::new(names::KIND, self.wal.clone())
    }

    /// Reads a pod; `None` when it is no data pod.
    pub(crate) fn read(pod: &core::Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let labels = metadata.labels.as_ref()?;
        let component = match labels.get(names::LABEL_COMPONENT)?.as_str() {
            "indexer" => WalComponent::Indexer,
            "search" => WalComponent::Search,
            _ => return None,
        };
        let status = pod.status.as_ref();
        let mut containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let eviction = status.and_then(|status| eviction(status, created));
        let address = status.and_then(running_address);
        Some(Self {
            wal: NamespacedName::new(metadata.namespace.as_deref()?, labels.get(names::LABEL_WAL)?),
            name: metadata.name.as_deref()?.into(),
            uid: metadata.uid.as_deref()?.into(),
            wal_uid: labels.get(names::LABEL_WAL_UID).map_or("", String::as_str).into(),
            component,
            image: running_image(pod, component),
            address: address.map(Box::from),
            terminating: metadata.deletion_timestamp.is_some(),
            created,
            restarted: containers.any(|container| container.restart_count > 0),
            trouble: status.filter(|_| eviction.is_none()).and_then(pod_trouble),
            eviction,
        })
    }
}

/// Where a pod can be reached, once it runs.
pub(super) fn running_address(status: &core::PodStatus) -> Option<&str> {
    let running = status.phase.as_deref() == Some("Running");
    status.pod_ip.as_deref().filter(|ip| running && !ip.is_empty())
}

/// How its node removed it, if it did.
pub(super) fn eviction(status: &core::PodStatus, created: Option<Timestamp>) -> Option<PodEviction> {
    if status.phase.as_deref() != Some("Failed") || status.reason.as_deref() != Some("Evicted") {
        return None;
    }
    // With the eviction the kubelet sets conditions such as Ready and DisruptionTarget; nothing changes them afterwards.
    let changes = status.conditions.iter().flatten().filter_map(|condition| condition.last_transition_time.as_ref());
    let time = changes.map(|time| time.0).max().or(created);
    let message = status.message.as_deref().unwrap_or("the kubelet gave no cause");
    Some(PodEviction { time, message: message.trim().trim_end_matches('.').into(), replaced: false })
}

/// What its container runs. An image that was not pulled has no name with a digest, only one of the node's own.
fn running_image(pod: &core::Pod, component: WalComponent) -> Option<Box<str>> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let status = statuses.into_iter().find(|status| status.name == component.as_str());
    let pulled = status.map(|status| status.image_id.rsplit("://").next().unwrap_or_default());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let named = containers.into_iter().find(|container| container.name == component.as_str());
    let named = named.and_then(|container| container.image.as_deref());
    pulled.filter(|image| image.contains("@sha256:")).or(named).map(Box::from)
}

/// What keeps a pod from running.
pub(super) fn pod_trouble(status: &core::PodStatus) -> Option<PodTrouble> {
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unscheduled.next() {
        return Some(PodTrouble::Unschedulable(condition.message.as_deref().unwrap_or_default().into()));
    }
    let conditions = status.conditions.iter().flatten();
    let mut unready = conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "False");
    let unready_since = unready.next().and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    status.container_statuses.iter().flatten().find_map(|container| container_trouble(container, unready_since))
}

fn container_trouble(container: &core::ContainerStatus, unready_since: Option<Timestamp>) -> Option<PodTrouble> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    match reason {
        // The kubelet alternates between these in other words each time; the condition must not.
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(PodTrouble::Image(container.image.as_str().into()))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or(reason);
            Some(PodTrouble::Config(message.into()))
        }
        "CrashLoopBackOff" => Some(PodTrouble::Crashing(last_end(container))),
        _ if container.restart_count >= CRASH_RESTARTS && !container.ready && !was_ready(container, unready_since) => {
            Some(PodTrouble::Crashing(last_end(container)))
        }
        _ => None,
    }
}

/// Whether the container has been ready since it was started last: its crashes are over, however many there were.
fn was_ready(container: &core::ContainerStatus, unready_since: Option<Timestamp>) -> bool {
    let running = container.state.as_ref().and_then(|state| state.running.as_ref());
    let started = running.and_then(|running| running.started_at.as_ref()).map(|time| time.0);
    started.zip(unready_since).is_some_and(|(started, unready)| unready.duration_since(started) > READINESS_DELAY)
}

/// How the container ended last.
fn last_end(container: &core::ContainerStatus) -> Box<str> {
    let end = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match end {
        Some(end) => format!("{}, exit code {}", end.reason.as_deref().unwrap_or("Error"), end.exit_code).into(),
        None => "how it ended is not known".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(status: &Value) -> DataPod {
        let pod = json!({
            "metadata": {
                "name": "orders-indexer-a", "namespace": "data", "uid": "p1", "creationTimestamp": "2026-11-28T10:00:00Z",
                "labels": {
                    "app.kubernetes.io/component": "indexer", "tidemark.dev/wal": "orders", "tidemark.dev/wal-uid": "u1",
                },
            },
            "status": status,
        });
        DataPod::read(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    /// As a kubelet of 1.34 leaves it, with a container that had crashed often.
    #[test]
    fn an_evicted_pod_has_the_kubelets_words_and_no_other_trouble() {
        let pod = read(&json!({
            "phase": "Failed", "reason": "Evicted", "podIP": "10.0.0.1",
            "message": "Usage of EmptyDir volume \"cache\" exceeds the limit \"8Gi\". ",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-28T10:00:00Z"},
                {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "lastTransitionTime": "2026-11-28T11:00:00Z"},
            ],
            "containerStatuses": [{
                "name": "indexer", "image": "i", "imageID": "i", "ready": false, "restartCount": 7,
                "state": {"terminated": {"exitCode": 137}},
            }],
        }));
        let eviction = pod.eviction.unwrap();
        assert_eq!(&*eviction.message, "Usage of EmptyDir volume \"cache\" exceeds the limit \"8Gi\"");
        assert_eq!(eviction.time, Some("2026-11-28T11:00:00Z".parse().unwrap()));
        assert_eq!((pod.trouble, pod.address), (None, None));
    }

    #[test]
    fn its_image_is_the_one_that_was_pulled() {
        let image = |id: &str| {
            let pod = json!({
                "metadata": {
                    "name": "orders-indexer-a", "namespace": "data", "uid": "p1",
                    "labels": {"app.kubernetes.io/component": "indexer", "tidemark.dev/wal": "orders"},
                },
                "spec": {"containers": [{"name": "sidecar", "image": "s"}, {"name": "indexer", "image": "r/i:1"}]},
                "status": {"containerStatuses": [{
                    "name": "indexer", "image": "r/i:1", "imageID": id, "ready": true, "restartCount": 0,
                }]},
            });
            DataPod::read(&serde_json::from_value(pod).unwrap()).unwrap().image.unwrap()
        };
        assert_eq!(&*image("r/i@sha256:0a"), "r/i@sha256:0a");
        assert_eq!(&*image("docker-pullable://r/i@sha256:0a"), "r/i@sha256:0a");
        // As of one that was loaded into the node, which no other node could pull.
        assert_eq!(&*image("sha256:0a"), "r/i:1");
        assert_eq!(&*image(""), "r/i:1");
    }

    /// As one that was short of memory in its first week, and whose store does not answer today.
    #[test]
    fn crashes_of_long_ago_are_no_trouble_of_a_pod_that_was_ready_since() {
        let crashing = |unready: &str, state: Value| {
            let status = json!({
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": unready}],
                "containerStatuses": [{
                    "name": "search", "image": "i", "imageID": "i", "ready": false, "restartCount": 3, "state": state,
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }],
            });
            read(&status).trouble
        };
        let running = || json!({"running": {"startedAt": "2026-11-28T10:00:00Z"}});
        let crashes = Some(PodTrouble::Crashing("OOMKilled, exit code 137".into()));
        for (unready, state, trouble) in [
            ("2026-11-28T10:05:00Z", running(), None),
            ("2026-11-28T09:59:58Z", running(), crashes.clone()),
            ("2026-11-28T10:00:01Z", running(), crashes.clone()),
            ("2026-11-28T10:05:00Z", json!({"waiting": {"reason": "CrashLoopBackOff"}}), crashes.clone()),
            ("2026-11-28T10:05:00Z", json!({"terminated": {"exitCode": 137}}), crashes),
        ] {
            assert_eq!(crashing(unready, state.clone()), trouble, "unready since {unready}, {state}");
        }
    }

    #[test]
    fn a_pod_that_ended_in_another_way_is_not_evicted() {
        for status in [json!({"phase": "Failed", "reason": "OutOfcpu"}), json!({"phase": "Running"}), Value::Null] {
            assert_eq!(read(&status).eviction, None, "{status}");
        }
    }
}
