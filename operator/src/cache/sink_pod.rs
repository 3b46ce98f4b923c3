//! A pod of a sink, as far as the operator needs it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use tidemark_crds::names;

use super::{
    data_pod::{PodEviction, PodTrouble, eviction, pod_trouble, running_address},
    namespaced_name::NamespacedName,
};
use crate::reconcile_queues::ReconcileTarget;

/// A pod of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SinkPod {
    pub(crate) wal: NamespacedName,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Box<str>,
    /// Name of its sink.
    pub(crate) sink: Box<str>,
    /// UID of the sink that it was made for.
    pub(crate) sink_uid: Box<str>,
    /// Where it can be polled, once its container runs.
    pub(crate) address: Option<Box<str>>,
    pub(crate) terminating: bool,
    /// Whether none of its containers will run again.
    pub(crate) ended: bool,
    /// When it was made, by the API server's clock.
    pub(crate) created: Option<Timestamp>,
    /// What keeps it from running.
    pub(crate) trouble: Option<PodTrouble>,
    /// How its node removed it. Such a pod is kept, and never runs again.
    pub(crate) eviction: Option<PodEviction>,
}

impl SinkPod {
    /// The sink.
    pub(crate) fn target(&self) -> ReconcileTarget {
        ReconcileTarget::new(names::SINK_KIND, NamespacedName::new(&self.wal.namespace, &self.sink))
    }

    /// The objects that have to be reconciled when it changes: a purge of the WAL waits until no pod of a sink is left.
    pub(crate) fn targets(&self) -> Vec<ReconcileTarget> {
        vec![self.target(), ReconcileTarget::new(names::KIND, self.wal.clone())]
    }

    /// Reads a pod; `None` when it is no pod of a sink of ours.
    pub(crate) fn read(pod: &core::Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let labels = metadata.labels.as_ref()?;
        let sink = labels.get(names::LABEL_SINK)?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let eviction = status.and_then(|status| eviction(status, created));
        Some(Self {
            wal: NamespacedName::new(metadata.namespace.as_deref()?, labels.get(names::LABEL_WAL)?),
            name: metadata.name.as_deref()?.into(),
            uid: metadata.uid.as_deref()?.into(),
            sink: sink.as_str().into(),
            sink_uid: labels.get(names::LABEL_SINK_UID).map_or("", String::as_str).into(),
            address: status.and_then(running_address).map(Box::from),
            terminating: metadata.deletion_timestamp.is_some(),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            created,
            trouble: status.filter(|_| eviction.is_none()).and_then(pod_trouble),
            eviction,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::DataPod;

    #[test]
    fn a_pod_of_a_sink_is_no_data_pod_and_wakes_its_sink_and_its_wal() {
        let pod = json!({
            "metadata": {
                "name": "search-sink-a", "namespace": "data", "uid": "p",
                "labels": {
                    "app.kubernetes.io/component": "sink", "tidemark.dev/wal": "orders", "tidemark.dev/wal-uid": "w",
                    "tidemark.dev/sink": "search", "tidemark.dev/sink-uid": "s",
                },
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        });
        let pod: core::Pod = serde_json::from_value(pod).unwrap();
        assert!(DataPod::read(&pod).is_none());
        let read = SinkPod::read(&pod).unwrap();
        assert_eq!((&*read.sink, &*read.sink_uid, read.address.as_deref()), ("search", "s", Some("10.0.0.1")));
        let key = |name| NamespacedName::new("data", name);
        let targets = [ReconcileTarget::new("WALSink", key("search")), ReconcileTarget::new("WAL", key("orders"))];
        assert_eq!(read.targets(), targets);
    }
}
