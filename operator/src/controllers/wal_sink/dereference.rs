//! What exists of a sink and of its WAL, from the watches: no request.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, core::ApiResource, runtime::reflector::ObjectRef};
use tidemark_crds::{PodReport, SinkReport, WalSink, WalSinkSpec, WalSinkStatus, names};

use super::wal_sink_controller::WalSinkController;
use crate::{
    cache::{ChildKind, NamespacedName, OwnedObjects, RolloutStatus, SinkPod},
    controllers::{
        wal::validate::{SpecRefusal, ValidatedWal, validate},
        writer_image,
    },
    object_owner::ObjectOwner,
    pod_report_poller::PodObservation,
};

/// A sink with everything that decides what its children are and how it is.
#[derive(Clone, Debug)]
pub(crate) struct ObservedSink {
    pub(crate) key: NamespacedName,
    pub(crate) uid: String,
    /// What its children refer to; `None` if it was not read from the API server.
    pub(crate) owner_reference: Option<OwnerReference>,
    pub(crate) generation: Option<i64>,
    pub(crate) spec: WalSinkSpec,
    /// As it was written last, even if the watch does not show it yet.
    pub(crate) status: WalSinkStatus,
    pub(crate) wal: SinkWal,
    /// How far its Deployment is, if it is there, is not going, and belongs to this sink.
    pub(crate) rollout: Option<RolloutStatus>,
    /// What its Deployment asks for.
    pub(crate) image: Option<String>,
    pub(crate) pods: Vec<ObservedSinkPod>,
}

/// The WAL that a sink names.
#[derive(Clone, Debug)]
pub(crate) enum SinkWal {
    Missing,
    /// This release cannot read it.
    Unreadable,
    Found(Box<SourceWal>),
}

/// A WAL, as far as its sinks need it.
#[derive(Clone, Debug)]
pub(crate) struct SourceWal {
    /// Whether it is being deleted.
    pub(crate) deleted: bool,
    /// What the pod is built from, or why the spec is refused.
    pub(crate) validated: Result<ValidatedWal, String>,
    /// What its writer runs, if there is one.
    pub(crate) writer_image: Option<String>,
    /// What its indexer's Deployment asks for.
    pub(crate) indexer_image: Option<String>,
}

/// A pod of the sink, and what it reports about itself.
#[derive(Clone, Debug)]
pub(crate) struct ObservedSinkPod {
    pub(crate) pod: Arc<SinkPod>,
    pub(crate) observation: PodObservation,
}

impl ObservedSinkPod {
    /// Its report, while it answers. What an evicted pod said last does not count.
    pub(crate) fn answer(&self) -> Option<(&PodReport, &SinkReport)> {
        let report = self.observation.answer().filter(|_| self.pod.eviction.is_none())?;
        Some((report, report.sink.as_ref()?))
    }

    fn holds(&self) -> bool {
        self.answer().is_some_and(|(_, sink)| sink.holding)
    }
}

/// Looks it up.
pub(crate) fn observe(sink: &WalSink, controller: &WalSinkController) -> ObservedSink {
    let key = NamespacedName::of(&sink.metadata);
    let uid = sink.metadata.uid.clone().unwrap_or_default();
    let wal = NamespacedName::new(&key.namespace, &sink.spec.wal_ref.name);
    let owned = controller.context.cache.owned(&wal);
    let name = names::sink_child(&key.name);
    let deployment = owned.child(ChildKind::Deployment, &name);
    let deployment = deployment.filter(|child| child.is_controlled_by(&uid) && !child.terminating);
    let own_pods = owned.sink_pods.values().filter(|pod| *pod.sink == *key.name && *pod.sink_uid == *uid);
    let pods = own_pods.map(|pod| ObservedSinkPod {
        pod: pod.clone(),
        observation: controller.context.observations.get(&pod.uid).unwrap_or_default(),
    });
    ObservedSink {
        owner_reference: sink.controller_owner_ref(&()),
        generation: sink.metadata.generation,
        spec: sink.spec.clone(),
        status: controller.statuses.status(&key, sink),
        wal: look_up(&wal, &owned, controller),
        rollout: deployment.and_then(|child| child.rollout.clone()),
        image: writer_image::of_deployment(&name, &uid, &owned),
        pods: pods.collect(),
        key,
        uid,
    }
}

fn look_up(key: &NamespacedName, owned: &OwnedObjects, controller: &WalSinkController) -> SinkWal {
    let found = controller.wals.get(&ObjectRef::new(&key.name).within(&key.namespace));
    let Some(found) = found else { return SinkWal::Missing };
    let Ok(wal) = &found.0 else { return SinkWal::Unreadable };
    let context = &controller.context;
    let uid = wal.metadata.uid.clone().unwrap_or_default();
    let refused = |refusals: Vec<SpecRefusal>| refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    SinkWal::Found(Box::new(SourceWal {
        deleted: wal.metadata.deletion_timestamp.is_some(),
        validated: validate(wal, &context.shared.settings.cluster_id).map_err(refused),
        writer_image: writer_image::of_writer(&uid, owned, &context.observations),
        indexer_image: writer_image::of_indexer(&key.name, &uid, owned),
    }))
}

impl ObservedSink {
    /// The pod that delivers, or else the one that was made last.
    pub(crate) fn active_pod(&self) -> Option<&ObservedSinkPod> {
        let present = self.pods.iter().filter(|seen| !seen.pod.terminating && !seen.pod.ended);
        present.clone().find(|seen| seen.holds()).or_else(|| present.max_by_key(|seen| seen.pod.created))
    }

    /// The sink as the owner of its children.
    pub(crate) fn owner(&self) -> ObjectOwner<'_> {
        ObjectOwner {
            kind: names::SINK_KIND,
            resource: || ApiResource::erase::<WalSink>(&()),
            key: &self.key,
            uid: &self.uid,
            deleting: false,
            field_manager: names::MANAGER_SINK_CHILDREN,
        }
    }
}
