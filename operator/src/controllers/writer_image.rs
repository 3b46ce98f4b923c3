//! What the pods of a WAL run, for the pods of its tasks and sinks: they read and write what that one does.

use tidemark_crds::{PodPhase, names::WalComponent};

use crate::{
    cache::{ChildKind, OwnedObjects},
    pod_report_poller::PodObservations,
};

/// What the writer of the WAL with this UID runs, if there is one.
pub(crate) fn of_writer(uid: &str, owned: &OwnedObjects, observations: &PodObservations) -> Option<String> {
    let is_writer = |uid: &str| {
        let observation = observations.get(uid).unwrap_or_default();
        observation.answer().is_some_and(|report| report.phase == PodPhase::Writing)
    };
    let indexers = owned.pods.values().filter(|pod| {
        pod.component == WalComponent::Indexer && *pod.wal_uid == *uid && pod.eviction.is_none() && !pod.terminating
    });
    let writer = indexers.into_iter().find(|pod| is_writer(&pod.uid));
    writer.and_then(|pod| pod.image.as_deref()).map(str::to_owned)
}

/// What the indexer's Deployment of the WAL asks for.
pub(crate) fn of_indexer(wal: &str, uid: &str, owned: &OwnedObjects) -> Option<String> {
    of_deployment(&WalComponent::Indexer.child_name(wal), uid, owned)
}

/// What this Deployment asks for, if it is one of the owner with this UID.
pub(crate) fn of_deployment(name: &str, owner: &str, owned: &OwnedObjects) -> Option<String> {
    let child = owned.child(ChildKind::Deployment, name)?;
    let object = child.object();
    let image = object.pointer("/spec/template/spec/containers/0/image").and_then(serde_json::Value::as_str)?;
    child.is_controlled_by(owner).then(|| image.to_owned())
}
