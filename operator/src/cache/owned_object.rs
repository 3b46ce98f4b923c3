//! An object that this operator made, as it is in the cluster.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidemark_crds::names;

use super::namespaced_name::{NamespacedName, is_older};
use crate::{compare::ANNOTATION_DIGEST, reconcile_queues::ReconcileTarget};

/// The kinds of objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChildKind {
    ConfigMap,
    Deployment,
    NetworkPolicy,
    PodDisruptionBudget,
    Service,
    ServiceAccount,
}

impl ChildKind {
    pub(crate) const ALL: [Self; 6] = [
        Self::ConfigMap,
        Self::Deployment,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::Service,
        Self::ServiceAccount,
    ];

    /// Its group, version and names.
    pub(crate) fn resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Deployment => "Deployment",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::Service => "Service",
            Self::ServiceAccount => "ServiceAccount",
        }
    }
}

/// An object with Tidemark's labels.
#[derive(Clone, Debug)]
pub(crate) struct OwnedObject {
    pub(crate) kind: ChildKind,
    /// The WAL that its label names. Another object of the same namespace may control it.
    pub(crate) wal: NamespacedName,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Box<str>,
    pub(crate) resource_version: Box<str>,
    /// The object that controls it, if there is one.
    pub(crate) controller: Option<ControllerRef>,
    pub(crate) terminating: bool,
    /// How far a Deployment is; `None` for other kinds.
    pub(crate) rollout: Option<RolloutStatus>,
    /// Digest of what was applied last, if this operator made it.
    pub(crate) digest: Option<Box<str>>,
    /// Whether it is what the API server made of an apply by this process, unchanged since. A policy of the cluster may have made
    /// something else of it than was asked for.
    pub(crate) applied: bool,
    /// The object as JSON, without kind, status and bookkeeping: most of the memory of the cache.
    text: Box<str>,
}

/// The object that controls another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControllerRef {
    pub(crate) kind: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Box<str>,
}

/// How far a Deployment is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RolloutStatus {
    /// The release that its pods are of.
    pub(crate) release: Option<Box<str>>,
    /// Digest of the part of the spec that its pods are made of.
    pub(crate) spec_digest: Option<Box<str>>,
    /// Pods wanted.
    pub(crate) wanted: i32,
    /// Pods that exist.
    pub(crate) replicas: i32,
    /// Pods that are ready and have been for long enough.
    pub(crate) available: i32,
    /// Whether every pod is of the present template, and as many are available as are wanted.
    pub(crate) complete: bool,
    /// Whether the roll-out of the present template has been complete once, whatever became of its pods since.
    pub(crate) rolled_out: bool,
    /// Whether it makes no progress: for longer than its progress deadline, or because it is paused.
    pub(crate) stalled: bool,
    /// Whether somebody has paused it in the middle of a roll-out.
    pub(crate) paused: bool,
    /// Why pods cannot be created, in the words of the API server.
    pub(crate) failure: Option<Box<str>>,
}

/// An object without the labels of an owned one.
#[derive(Debug, thiserror::Error)]
#[error("{kind} lacks \"{field}\"", kind = .kind.as_str())]
pub(crate) struct UnownedObjectError {
    kind: ChildKind,
    field: &'static str,
}

impl OwnedObject {
    /// Reads an object of the API server.
    pub(crate) fn read(kind: ChildKind, mut object: Value) -> Result<Self, UnownedObjectError> {
        let text = |path: &'static str| {
            object.pointer(path).and_then(Value::as_str).ok_or(UnownedObjectError { kind, field: path })
        };
        let namespace = text("/metadata/namespace")?;
        let wal = text("/metadata/labels/tidemark.dev~1wal")?;
        let wal = NamespacedName::new(namespace, wal);
        let (name, uid) = (Arc::from(text("/metadata/name")?), Box::from(text("/metadata/uid")?));
        let resource_version = Box::from(text("/metadata/resourceVersion")?);
        let rollout = (kind == ChildKind::Deployment).then(|| RolloutStatus::read(&object));
        let controller = ControllerRef::read(&object);
        let annotations = object.pointer("/metadata/annotations");
        let digest = annotations.and_then(|all| all.get(ANNOTATION_DIGEST)).and_then(Value::as_str).map(Box::from);
        let terminating = object.pointer("/metadata/deletionTimestamp").is_some();
        strip(&mut object);
        Ok(Self {
            kind,
            wal,
            name,
            uid,
            resource_version,
            controller,
            terminating,
            rollout,
            digest,
            applied: false,
            text: object.to_string().into_boxed_str(),
        })
    }

    /// The object with its kind, without status and bookkeeping.
    pub(crate) fn object(&self) -> Value {
        let mut object: Value = serde_json::from_str(&self.text).unwrap_or_default();
        let resource = self.kind.resource();
        object["apiVersion"] = resource.api_version.into();
        object["kind"] = resource.kind.into();
        object
    }

    /// The object as its type; `None` if it is of another one.
    pub(crate) fn typed<K: DeserializeOwned>(&self) -> Option<K> {
        serde_json::from_value(self.object()).ok()
    }

    /// The objects that have to be reconciled when it changes: the one that controls it, and the WAL that its label names.
    pub(crate) fn targets(&self) -> Vec<ReconcileTarget> {
        let wal = ReconcileTarget::new(names::KIND, self.wal.clone());
        let controller = self.controller.as_ref().map(|controller| {
            ReconcileTarget::new(&controller.kind, NamespacedName::new(&self.wal.namespace, &controller.name))
        });
        let other = controller.filter(|controller| *controller != wal);
        [wal].into_iter().chain(other).collect()
    }

    /// Whether the object with this UID controls it.
    pub(crate) fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|controller| *controller.uid == *uid)
    }

    /// Whether anything differs but the resource version, and who wrote it. The digest is a part of the text.
    pub(super) fn differs_from(&self, other: &Self) -> bool {
        let Self {
            kind,
            wal,
            name,
            uid,
            resource_version: _,
            controller,
            terminating,
            rollout,
            digest: _,
            applied: _,
            text,
        } = self;
        (kind, wal, name, uid, controller) != (&other.kind, &other.wal, &other.name, &other.uid, &other.controller)
            || (terminating, rollout, text) != (&other.terminating, &other.rollout, &other.text)
    }

    /// Whether nothing of it differs but how far it is.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.uid == other.uid && self.text == other.text
    }

    /// Whether this is an earlier state of the same object.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.uid == other.uid && is_older(&self.resource_version, &other.resource_version)
    }
}

impl RolloutStatus {
    /// Whether no pod of another template is left. One that crashes later does not begin a roll-out.
    pub(crate) fn is_rolled_out(&self) -> bool {
        self.complete || self.rolled_out
    }

    fn read(object: &Value) -> Self {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let count = |path: &str| i32::try_from(number(path)).unwrap_or(i32::MAX);
        let wanted = object.pointer("/spec/replicas").map_or(1, |_| count("/spec/replicas"));
        let (replicas, updated) = (count("/status/replicas"), count("/status/updatedReplicas"));
        let available = count("/status/availableReplicas");
        let observed = number("/status/observedGeneration") >= number("/metadata/generation");
        let annotation = |name: &str| object.pointer("/metadata/annotations")?.get(name)?.as_str().map(Box::from);
        let complete = observed && updated == wanted && replicas == wanted && available == wanted;
        let unfinished = updated < wanted || replicas > updated;
        let paused = object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) && unfinished;
        let progresses =
            |status, reason| condition(object, "Progressing", status).is_some_and(|c| c["reason"] == reason);
        // A pause takes the place of what the condition said before.
        let is_rolled_out = || {
            progresses("True", "NewReplicaSetAvailable")
                || updated == wanted && progresses("Unknown", "DeploymentPaused")
        };
        let is_late = || progresses("False", "ProgressDeadlineExceeded");
        Self {
            release: annotation(names::ANNOTATION_RELEASE),
            spec_digest: annotation(names::ANNOTATION_SPEC_DIGEST),
            wanted,
            replicas,
            available,
            rolled_out: observed && updated == replicas && is_rolled_out(),
            complete,
            stalled: observed && (paused || is_late()),
            paused,
            failure: condition(object, "ReplicaFailure", "True").and_then(|c| c["message"].as_str()).map(Box::from),
        }
    }
}

/// The condition of this type, if it has this status.
fn condition<'a>(object: &'a Value, kind: &str, status: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == status)
}

impl ControllerRef {
    fn read(object: &Value) -> Option<Self> {
        let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
        let controller = owners.iter().find(|owner| owner["controller"] == true)?;
        let text = |field: &str| controller[field].as_str().map(Box::from);
        Some(Self { kind: text("kind")?, name: text("name")?, uid: text("uid")? })
    }
}

/// Removes what no comparison reads.
fn strip(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    for field in ["status", "apiVersion", "kind"] {
        fields.shift_remove(field);
    }
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "creationTimestamp", "generation", "resourceVersion", "uid"] {
            metadata.shift_remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: &Value) -> OwnedObject {
        let object = json!({
            "metadata": {
                "namespace": "data", "name": "orders-search", "uid": "u", "resourceVersion": "1", "generation": 2,
                "managedFields": [{}], "labels": {"tidemark.dev/wal": "orders"},
                "annotations": {"tidemark.dev/release": "0123456789"},
                "ownerReferences": [{"kind": "WAL", "name": "orders", "uid": "w", "controller": true}],
            },
            "spec": {"replicas": 2},
            "status": status,
        });
        OwnedObject::read(ChildKind::Deployment, object).unwrap()
    }

    #[test]
    fn a_roll_out_is_complete_when_no_old_pod_is_left_and_every_new_one_is_available() {
        let status = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert!(deployment(&status).rollout.unwrap().complete);
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
        {
            let mut behind = status.clone();
            behind[field] = json!(value);
            assert!(!deployment(&behind).rollout.unwrap().complete, "{field}");
        }
    }

    #[test]
    fn a_pod_that_crashes_after_its_roll_out_begins_none() {
        let condition = json!({"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"});
        let mut status =
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "conditions": [condition]});
        let rolled_out = |status: &Value| deployment(status).rollout.unwrap().is_rolled_out();
        assert!(rolled_out(&status), "none of its pods is available now");
        status["replicas"] = json!(3);
        assert!(!rolled_out(&status), "a pod of another template is there");
        status["replicas"] = json!(2);
        status["observedGeneration"] = json!(1);
        assert!(!rolled_out(&status), "the template is a newer one");
    }

    #[test]
    fn a_roll_out_is_stalled_after_its_deadline_and_not_by_the_deadline_of_an_earlier_one() {
        let condition = json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"});
        let mut status = json!({"observedGeneration": 2, "conditions": [condition]});
        assert!(deployment(&status).rollout.unwrap().stalled);
        status["observedGeneration"] = json!(1);
        assert!(!deployment(&status).rollout.unwrap().stalled);
        let getting_on = json!({"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"});
        assert!(!deployment(&json!({"observedGeneration": 2, "conditions": [getting_on]})).rollout.unwrap().stalled);
    }

    #[test]
    fn a_roll_out_that_is_paused_is_stalled_and_a_pod_that_fails_while_paused_begins_none() {
        let rollout = |replicas: i32, updated: i32, available: i32, reason: &str| {
            let progressing = json!({"type": "Progressing", "status": "Unknown", "reason": reason});
            let status = json!({
                "observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated,
                "availableReplicas": available, "conditions": [progressing],
            });
            let object = json!({
                "metadata": {
                    "namespace": "data", "name": "orders-search", "uid": "u", "resourceVersion": "1", "generation": 2,
                    "labels": {"tidemark.dev/wal": "orders"},
                },
                "spec": {"replicas": 2, "paused": true},
                "status": status,
            });
            let rollout = OwnedObject::read(ChildKind::Deployment, object).unwrap().rollout.unwrap();
            (rollout.paused, rollout.stalled, rollout.is_rolled_out())
        };
        assert_eq!(rollout(2, 2, 2, "DeploymentPaused"), (false, false, true));
        assert_eq!(rollout(2, 2, 1, "DeploymentPaused"), (false, false, true), "a pod has failed");
        assert_eq!(rollout(3, 2, 2, "DeploymentPaused"), (true, true, false), "a pod of another template is there");
        assert_eq!(rollout(2, 1, 2, "DeploymentPaused"), (true, true, false), "one of the new template is missing");
        assert_eq!(rollout(2, 2, 1, "DeploymentResumed"), (false, false, false), "the roll-out goes on");
    }

    #[test]
    fn it_keeps_what_comparisons_read_and_nothing_else() {
        let child = deployment(&json!({}));
        assert_eq!(child.rollout.as_ref().unwrap().release.as_deref(), Some("0123456789"));
        assert!(child.is_controlled_by("w") && !child.is_controlled_by("u"));
        let object = child.object();
        assert!(object.get("status").is_none() && object.pointer("/metadata/managedFields").is_none());
        assert_eq!(object["spec"]["replicas"], 2);
    }

    #[test]
    fn refused_pods_are_told_in_the_words_of_the_api_server() {
        let condition = json!({"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"});
        let child = deployment(&json!({"conditions": [condition]}));
        assert_eq!(child.rollout.unwrap().failure.as_deref(), Some("violates PodSecurity"));
    }
}
