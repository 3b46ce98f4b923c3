//! Writes owned objects: server-side apply, forced, under one field manager, and only where something differs.

use std::sync::Arc;

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::Status,
};
use serde_json::{Value, json};

use crate::{
    cache::{ChildKind, ObjectCache, OwnedObject, OwnedObjects},
    compare::{self, ANNOTATION_DIGEST},
    desired_object::DesiredObject,
    namespace::is_refusal_of_terminating,
    object_owner::ObjectOwner,
};

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// An object of somebody else has the name.
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

/// Writes the objects of one owner.
pub(crate) struct ObjectApplier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a ObjectCache,
    pub(crate) owner: ObjectOwner<'a>,
}

impl ObjectApplier<'_> {
    /// Makes the object as it should be, and answers whether that took a write.
    pub(crate) async fn ensure(&self, desired: &DesiredObject) -> Result<bool, ApplyError> {
        let DesiredObject { kind, name, object } = desired;
        let digest = compare::digest(object);
        let live = self.live(*kind, name).await?;
        if let Some(live) = &live {
            self.check_owner(live)?;
            if live.digest.as_deref() == Some(&digest) && compare::holds(&live.object(), object) {
                return Ok(false);
            }
        }
        let mut object = object.clone();
        object["metadata"]["annotations"][ANNOTATION_DIGEST] = json!(digest);
        let params = PatchParams::apply(self.owner.field_manager).force();
        self.cache.begin_write(*kind, self.owner.key, name, &digest);
        self.patch(*kind, name, &params, &Patch::Apply(&object)).await?;
        tracing::info!(object = %self.owner.key, kind = kind.as_str(), name, "applied");
        Ok(true)
    }

    /// Sets nothing but the number of replicas of a Deployment, and answers whether that took a write.
    pub(crate) async fn scale(&self, name: &str, replicas: i32) -> Result<bool, ApplyError> {
        let live = self.live(ChildKind::Deployment, name).await?;
        let Some(live) = live.filter(|live| live.rollout.as_ref().is_some_and(|rollout| rollout.wanted != replicas))
        else {
            return Ok(false);
        };
        self.check_owner(&live)?;
        let patch = json!({"spec": {"replicas": replicas}});
        let field_manager = Some(self.owner.field_manager.to_owned());
        let params = PatchParams { field_manager, ..PatchParams::default() };
        self.patch(ChildKind::Deployment, name, &params, &Patch::Merge(&patch)).await?;
        tracing::info!(object = %self.owner.key, name, replicas, "scaled");
        Ok(true)
    }

    /// Removes those of `owned` that belong to the owner and are not among `kept`, and answers how many.
    pub(crate) async fn remove_orphans(
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

    /// The object as it is. One that the watches do not show is read: it may be just created, or somebody else's.
    async fn live(&self, kind: ChildKind, name: &str) -> Result<Option<Arc<OwnedObject>>, ApplyError> {
        if let Some(child) = self.cache.child(self.owner.key, kind, name) {
            return Ok(Some(child));
        }
        let found = self.api(kind).get_opt(name).await;
        let Some(found) = found.map_err(|source| ApplyError::Failed { kind, name: name.to_owned(), source })? else {
            return Ok(None);
        };
        match OwnedObject::read(kind, serde_json::to_value(found)?) {
            Ok(child) => Ok(Some(Arc::new(child))),
            Err(_) => Err(ApplyError::NameTaken { kind, name: name.to_owned(), owner: self.owner.kind }),
        }
    }

    fn check_owner(&self, live: &OwnedObject) -> Result<(), ApplyError> {
        let (kind, name, owner) = (live.kind, live.name.to_string(), self.owner.kind);
        let of_namesake = live
            .controller
            .as_ref()
            .is_some_and(|controller| *controller.kind == *self.owner.kind && *controller.name == *self.owner.key.name);
        if live.is_controlled_by(self.owner.uid) && !live.terminating {
            Ok(())
        } else if of_namesake {
            Err(ApplyError::Leftover { kind, name, owner })
        } else {
            Err(ApplyError::NameTaken { kind, name, owner })
        }
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
        let child = answer.and_then(|answer| OwnedObject::read(kind, answer).ok());
        self.cache.finish_write(kind, self.owner.key, name, child);
        written.map(drop).map_err(|error| ApplyError::from_answer(kind, name, error))
    }

    fn api(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.owner.key.namespace, &kind.resource())
    }
}

impl ApplyError {
    fn from_answer(kind: ChildKind, name: &str, error: kube::Error) -> Self {
        let name = name.to_owned();
        match error {
            kube::Error::Api(status) if is_refusal_of_terminating(&status) => Self::NamespaceTerminating,
            // A time-out, too many requests or a conflict does not mean that the object is wrong.
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 413 | 422) => {
                Self::Refused { kind, name, status }
            }
            source => Self::Failed { kind, name, source },
        }
    }
}
