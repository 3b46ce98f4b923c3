//! Writes owned objects: server-side apply, forced, under one field manager, and only where something differs.
//!
//! `kube` applies an object, whatever object has its name. Written by hand is what comes before: whether an object of that name
//! may be written (it may be another owner's, of an earlier owner, or left behind), and whether a write would change anything.

use std::sync::Arc;

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
    core::Status,
};
use serde_json::{Value, json};
use tidemark_crds::names;

use crate::{
    cache::{ChildKind, ObjectCache, OwnedObject, OwnedObjects, RolloutStatus},
    compare::{self, ANNOTATION_DIGEST},
    desired_object::DesiredObject,
    namespace::is_refusal_of_terminating,
    object_owner::ObjectOwner,
};

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// An object of another owner has the name.
    #[error(
        "{kind} \"{name}\" exists and belongs to something else; the one of this {owner} is not created; remove it or give the \
         {owner} another name",
        kind = .kind.as_str()
    )]
    NameTaken { kind: ChildKind, name: String, owner: &'static str },
    /// The object of an earlier owner of the same name still exists; the garbage collector removes it.
    #[error(
        "{kind} \"{name}\" of a deleted {owner} still exists; the one of this {owner} is not created yet; wait until it is gone",
        kind = .kind.as_str()
    )]
    Leftover { kind: ChildKind, name: String, owner: &'static str },
    /// It is being deleted.
    #[error(
        "{kind} \"{name}\" is being deleted; it is created again when it is gone; if that takes long, look at its finalizers",
        kind = .kind.as_str()
    )]
    Terminating { kind: ChildKind, name: String },
    /// Its owner is gone, though the watch does not show that yet, and has left the object behind.
    #[error(
        "{kind} \"{name}\" was left behind by this {owner}, which is gone; it stays as it is; no action is needed",
        kind = .kind.as_str()
    )]
    LeftBehind { kind: ChildKind, name: String, owner: &'static str },
    /// The namespace is being deleted: nothing can be created in it.
    #[error("the namespace is being deleted; nothing can be created in it; use another namespace")]
    NamespaceTerminating,
    /// The API server understood and refused.
    #[error(
        "the API server refuses {kind} \"{name}\": {}; it stays as it is; remove the cause",
        .status.message, kind = .kind.as_str()
    )]
    Refused { kind: ChildKind, name: String, status: Box<Status> },
    /// The API server could not be reached, or failed.
    #[error("failed to write {kind} \"{name}\": {source}", kind = .kind.as_str())]
    Failed { kind: ChildKind, name: String, source: kube::Error },
    /// An object cannot be serialized.
    #[error("an object cannot be written as JSON: {0}; it is not applied; this is a bug, please report it")]
    Unwritable(#[from] serde_json::Error),
}

/// Whether the owner of an orphan may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnerState {
    Alive,
    /// It waits for its finalizers.
    Deleting,
    /// It is gone, and perhaps another object has its name.
    Gone,
}

/// Writes the objects of one owner.
pub(crate) struct ObjectApplier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a ObjectCache,
    pub(crate) owner: ObjectOwner<'a>,
}

impl ObjectApplier<'_> {
    /// Makes the object as it should be, and answers whether that took a write.
    pub(crate) async fn ensure(&self, desired: DesiredObject<'_>) -> Result<bool, ApplyError> {
        self.ensure_json(desired.kind(), desired.name(), serde_json::to_value(desired)?).await
    }

    /// [`ObjectApplier::ensure`] for an object that is made of one in the cluster, of which it may have fields that this release
    /// does not know.
    pub(crate) async fn ensure_json(&self, kind: ChildKind, name: &str, mut object: Value) -> Result<bool, ApplyError> {
        let live = self.live(kind, name).await?;
        if let Some(live) = &live {
            self.adopt_or_check_owner(live, &mut object).await?;
        }
        let digest = compare::digest(&object);
        if let Some(live) = &live {
            let is_applied = live.applied || compare::holds(&live.object(), &object);
            if live.digest.as_deref() == Some(&digest) && is_applied {
                return Ok(false);
            }
        }
        object["metadata"]["annotations"][ANNOTATION_DIGEST] = json!(digest);
        // The garbage collector may be taking the owner from it: a write over what is not seen yet would give it back.
        if let Some(live) = live.filter(|_| self.owner.deleting) {
            object["metadata"]["resourceVersion"] = json!(live.resource_version);
        }
        let params = PatchParams::apply(self.owner.field_manager).force();
        self.cache.begin_write(kind, &self.owner.key.namespace, name, &digest);
        self.patch(kind, name, &params, &Patch::Apply(&object)).await?;
        tracing::info!(object = %self.owner.key, kind = kind.as_str(), name, "applied");
        Ok(true)
    }

    /// Creates an object that is never changed, such as a Job, and answers whether that took a write. One that exists and is the owner's
    /// stays as it is.
    pub(crate) async fn create(&self, desired: DesiredObject<'_>) -> Result<bool, ApplyError> {
        let (kind, name) = (desired.kind(), desired.name());
        if let Some(live) = self.live(kind, name).await? {
            self.check_owner(&live)?;
            return Ok(false);
        }
        let object: DynamicObject = serde_json::from_value(serde_json::to_value(desired)?)?;
        let params = PostParams { field_manager: Some(self.owner.field_manager.to_owned()), ..PostParams::default() };
        let created = self.api(kind).create(&params, &object).await;
        let created = created.map_err(|error| ApplyError::from_answer(kind, name, error))?;
        if let Ok(child) = OwnedObject::read(kind, serde_json::to_value(created)?) {
            self.cache.put_child(child);
        }
        tracing::info!(object = %self.owner.key, kind = kind.as_str(), name, "created");
        Ok(true)
    }

    /// Deletes an object of the owner, which stays until its pods are gone.
    pub(crate) async fn delete(&self, child: &OwnedObject) -> Result<(), ApplyError> {
        let preconditions = Preconditions { uid: Some(child.uid.to_string()), resource_version: None };
        let params = DeleteParams::foreground().preconditions(preconditions);
        match self.api(child.kind).delete(&child.name, &params).await {
            Ok(_) => {}
            // Gone already, or another object by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(source) => return Err(ApplyError::Failed { kind: child.kind, name: child.name.to_string(), source }),
        }
        tracing::info!(object = %self.owner.key, kind = child.kind.as_str(), name = %child.name, "deleted");
        Ok(())
    }

    /// Sets nothing but the number of replicas of a Deployment, and answers whether it has them by that: a policy of the cluster may
    /// want another number.
    pub(crate) async fn scale(&self, name: &str, replicas: i32) -> Result<bool, ApplyError> {
        let live = self.live(ChildKind::Deployment, name).await?;
        let Some(live) = live.filter(|live| live.rollout.as_ref().is_some_and(|rollout| rollout.wanted != replicas))
        else {
            return Ok(false);
        };
        self.check_owner(&live)?;
        let patch = json!({"spec": {"replicas": replicas}});
        self.merge(ChildKind::Deployment, name, &patch).await?;
        let after = self.live(ChildKind::Deployment, name).await?;
        let is_scaled = after.and_then(|after| after.rollout.clone()).is_some_and(|rollout| rollout.wanted == replicas);
        tracing::info!(object = %self.owner.key, name, replicas, is_scaled, "scaled");
        Ok(is_scaled)
    }

    /// Removes those of `owned` that belong to the owner and are not among `kept`, and answers how many.
    pub(crate) async fn remove_unwanted(
        &self,
        owned: &OwnedObjects,
        kept: &[(ChildKind, &str)],
    ) -> Result<usize, ApplyError> {
        let mut removed = 0;
        for ((kind, name), child) in &owned.children {
            if !child.is_controlled_by(self.owner.uid) || child.terminating || kept.contains(&(*kind, name)) {
                continue;
            }
            let preconditions = Preconditions { uid: Some(child.uid.to_string()), resource_version: None };
            let params = DeleteParams::background().preconditions(preconditions);
            match self.api(*kind).delete(name, &params).await {
                Ok(_) => removed += 1,
                // Gone already, or another object by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(ApplyError::Failed { kind: *kind, name: name.to_string(), source }),
            }
            tracing::info!(object = %self.owner.key, kind = kind.as_str(), %name, "removed an orphan");
        }
        Ok(removed)
    }

    /// How a Deployment stands that the watches do not show as the owner's, if it is there: its labels, or its controller, are lost.
    pub(crate) async fn lost_rollout(&self, name: &str) -> Result<Option<RolloutStatus>, ApplyError> {
        Ok(self.live(ChildKind::Deployment, name).await?.and_then(|live| live.rollout.clone()))
    }

    /// Gives a Deployment the labels and the owner of `wanted` again and nothing else, so that no pod is replaced.
    pub(crate) async fn restore_labels(&self, name: &str, mut wanted: Value) -> Result<(), ApplyError> {
        let kind = ChildKind::Deployment;
        if let Some(live) = self.live(kind, name).await? {
            self.adopt_or_check_owner(&live, &mut wanted).await?;
        }
        let metadata = &wanted["metadata"];
        let patch = json!({"metadata": {"labels": metadata["labels"], "ownerReferences": metadata["ownerReferences"]}});
        self.merge(kind, name, &patch).await?;
        tracing::info!(object = %self.owner.key, name, "restored labels and owner");
        Ok(())
    }

    /// The object as it is. One that the watches do not show is read: it may be just created, or another owner's.
    async fn live(&self, kind: ChildKind, name: &str) -> Result<Option<Arc<OwnedObject>>, ApplyError> {
        if let Some(child) = self.cache.child(kind, &self.owner.key.namespace, name) {
            return Ok(Some(child));
        }
        let found = self.api(kind).get_opt(name).await;
        let Some(found) = found.map_err(|source| ApplyError::Failed { kind, name: name.to_owned(), source })? else {
            return Ok(None);
        };
        let mut found = serde_json::to_value(found)?;
        if is_controlled(&found, self.owner.uid) {
            // It may have lost the label by which the watches know it.
            found["metadata"]["labels"][names::LABEL_WAL] = json!(*self.owner.key.name);
        }
        match OwnedObject::read(kind, found) {
            Ok(child) => Ok(Some(Arc::new(child))),
            Err(_) => Err(ApplyError::NameTaken { kind, name: name.to_owned(), owner: self.owner.kind }),
        }
    }

    /// Whether `live` may be written as `wanted`: it is the owner's, or an orphan that it adopts. An orphan of an owner that is being
    /// deleted is written without an owner, so that it stays; the watch may not show yet that this is so.
    async fn adopt_or_check_owner(&self, live: &OwnedObject, wanted: &mut Value) -> Result<(), ApplyError> {
        if !is_orphan_of(live, wanted) {
            return self.check_owner(live);
        }
        let (kind, name) = (live.kind, live.name.to_string());
        match self.owner_state().await {
            Ok(OwnerState::Alive) => {}
            Ok(OwnerState::Deleting) => {
                if let Some(metadata) = wanted["metadata"].as_object_mut() {
                    metadata.shift_remove("ownerReferences");
                }
            }
            Ok(OwnerState::Gone) => return Err(ApplyError::LeftBehind { kind, name, owner: self.owner.kind }),
            Err(source) => return Err(ApplyError::Failed { kind, name, source }),
        }
        Ok(())
    }

    async fn owner_state(&self) -> Result<OwnerState, kube::Error> {
        let ObjectOwner { key, uid, resource, .. } = self.owner;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource());
        let found = api.get_metadata_opt(&key.name).await?.map(|found| found.metadata);
        Ok(match found.filter(|found| found.uid.as_deref() == Some(uid)) {
            None => OwnerState::Gone,
            Some(owner) if owner.deletion_timestamp.is_some() => OwnerState::Deleting,
            Some(_) => OwnerState::Alive,
        })
    }

    fn check_owner(&self, live: &OwnedObject) -> Result<(), ApplyError> {
        let (kind, name, owner) = (live.kind, live.name.to_string(), self.owner.kind);
        let of_namesake = live
            .controller
            .as_ref()
            .is_some_and(|controller| *controller.kind == *self.owner.kind && *controller.name == *self.owner.key.name);
        if live.is_controlled_by(self.owner.uid) {
            if live.terminating { Err(ApplyError::Terminating { kind, name }) } else { Ok(()) }
        } else if of_namesake {
            Err(ApplyError::Leftover { kind, name, owner })
        } else {
            Err(ApplyError::NameTaken { kind, name, owner })
        }
    }

    async fn merge(&self, kind: ChildKind, name: &str, patch: &Value) -> Result<(), ApplyError> {
        let field_manager = Some(self.owner.field_manager.to_owned());
        let params = PatchParams { field_manager, ..PatchParams::default() };
        self.patch(kind, name, &params, &Patch::Merge(patch)).await
    }

    async fn patch(
        &self,
        kind: ChildKind,
        name: &str,
        params: &PatchParams,
        patch: &Patch<&Value>,
    ) -> Result<(), ApplyError> {
        let written = self.api(kind).patch(name, params, patch).await;
        let answer = written.as_ref().ok().and_then(|written| serde_json::to_value(written).ok());
        let mut child = answer.and_then(|answer| OwnedObject::read(kind, answer).ok());
        if let Some(child) = &mut child {
            child.applied = matches!(patch, Patch::Apply(_));
        }
        self.cache.finish_write(kind, &self.owner.key.namespace, name, child);
        written.map(drop).map_err(|error| ApplyError::from_answer(kind, name, error))
    }

    fn api(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.owner.key.namespace, &kind.resource())
    }
}

/// Whether the API server understood a write and does not take it. A time-out, too many requests or a conflict does not mean that the
/// object is wrong.
pub(crate) fn is_refusal(answer: &Status) -> bool {
    matches!(answer.code, 400 | 403 | 413 | 422)
}

/// Whether the object with this UID controls another one.
fn is_controlled(object: &Value, uid: &str) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["uid"] == uid)
}

/// Whether an operator made the object for this very purpose, and its owner was deleted without it. Such a one is adopted.
fn is_orphan_of(live: &OwnedObject, wanted: &Value) -> bool {
    let wal =
        wanted.pointer("/metadata/labels").and_then(|labels| labels.get(names::LABEL_WAL)).and_then(Value::as_str);
    live.controller.is_none() && live.digest.is_some() && !live.terminating && wal == Some(&*live.wal.name)
}

impl ApplyError {
    fn from_answer(kind: ChildKind, name: &str, error: kube::Error) -> Self {
        let name = name.to_owned();
        match error {
            kube::Error::Api(status) if is_refusal_of_terminating(&status) => Self::NamespaceTerminating,
            kube::Error::Api(status) if is_refusal(&status) => Self::Refused { kind, name, status },
            source => Self::Failed { kind, name, source },
        }
    }
}
