//! An object that this operator made, as it is in the cluster.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidemark_crds::names;

use super::{
    job_status::JobStatus,
    namespaced_name::{NamespacedName, is_older},
    rollout_status::RolloutStatus,
};
use crate::{compare::ANNOTATION_DIGEST, reconcile_queues::ReconcileTarget};

/// The kinds of objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChildKind {
    ConfigMap,
    Deployment,
    Job,
    NetworkPolicy,
    PodDisruptionBudget,
    Service,
    ServiceAccount,
}

impl ChildKind {
    pub(crate) const ALL: [Self; 7] = [
        Self::ConfigMap,
        Self::Deployment,
        Self::Job,
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
            Self::Job => ApiResource::erase::<Job>(&()),
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
            Self::Job => "Job",
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
    /// How far a Job is; `None` for other kinds.
    pub(crate) job: Option<JobStatus>,
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
        let job = (kind == ChildKind::Job).then(|| JobStatus::read(&object));
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
            job,
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
            job,
            digest: _,
            applied: _,
            text,
        } = self;
        (kind, wal, name, uid, controller) != (&other.kind, &other.wal, &other.name, &other.uid, &other.controller)
            || (terminating, rollout, job, text) != (&other.terminating, &other.rollout, &other.job, &other.text)
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
    fn it_keeps_what_comparisons_read_and_nothing_else() {
        let child = deployment(&json!({}));
        assert_eq!(child.rollout.as_ref().unwrap().release.as_deref(), Some("0123456789"));
        assert!(child.is_controlled_by("w") && !child.is_controlled_by("u"));
        let object = child.object();
        assert!(object.get("status").is_none() && object.pointer("/metadata/managedFields").is_none());
        assert_eq!(object["spec"]["replicas"], 2);
    }
}
