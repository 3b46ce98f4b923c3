//! Writes children: server-side apply, forced, under one field manager, and only where something differs.

use std::sync::Arc;

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::Status,
};
use serde_json::{Value, json};
use tidemark_crds::names;

use crate::{
    cache::{Cache, Child, ChildKind, Family, WalKey},
    compare,
};

/// Annotation of a child: digest of the object that was applied last.
pub(crate) const ANNOTATION_DIGEST: &str = "tidemark.dev/applied-digest";

/// A child as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) kind: ChildKind,
    pub(crate) name: String,
    /// The whole object, with labels and owner.
    pub(crate) object: Value,
}

/// Why a child could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// An object that is not this WAL's bears the child's name.
    #[error(
        "{kind} \"{name}\" exists and belongs to something else, so this WAL's is not made; remove it or give the WAL another name",
        kind = .kind.as_str()
    )]
    NameTaken { kind: ChildKind, name: String },
    /// The child of an earlier WAL of the same name is still there; it goes by itself.
    #[error("{kind} \"{name}\" of a deleted WAL is still there; it is waited for", kind = .kind.as_str())]
    Leftover { kind: ChildKind, name: String },
    /// The namespace is being deleted: nothing can be made in it.
    #[error("the namespace is being deleted, nothing can be made in it")]
    NamespaceTerminating,
    /// The API server understood and refused.
    #[error(
        "the API server refuses {kind} \"{name}\": {}; it stays as it is until the cause is gone",
        .status.message, kind = .kind.as_str()
    )]
    Refused { kind: ChildKind, name: String, status: Box<Status> },
    /// The API server could not be asked.
    #[error("{kind} \"{name}\" could not be written: {source}", kind = .kind.as_str())]
    Failed { kind: ChildKind, name: String, source: kube::Error },
    /// A built object cannot be written down.
    #[error("a child cannot be written as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}

/// Whose children are written.
pub(crate) struct Applier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a Cache,
    pub(crate) key: &'a WalKey,
    pub(crate) uid: &'a str,
    pub(crate) family: &'a Family,
}

impl Applier<'_> {
    /// Makes the child as it should be, and answers whether that took a write.
    pub(crate) async fn ensure(&self, desired: &Desired) -> Result<bool, ApplyError> {
        let digest = compare::digest(&desired.object);
        let live = self.live(desired.kind, &desired.name).await?;
        if let Some(live) = &live {
            self.check_owner(live)?;
            if live.digest.as_deref() == Some(&digest) && compare::holds(&live.object(), &desired.object) {
                return Ok(false);
            }
        }
        let resource = desired.kind.resource();
        let mut object = desired.object.clone();
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        object["metadata"]["annotations"][ANNOTATION_DIGEST] = json!(digest);
        let params = PatchParams::apply(names::MANAGER_CHILDREN).force();
        self.cache.writing(desired.kind, self.key, &desired.name, &digest);
        self.patch(desired.kind, &desired.name, &params, &Patch::Apply(&object)).await?;
        tracing::info!(wal = %self.key, kind = desired.kind.as_str(), name = desired.name, "applied");
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
        let params = PatchParams { field_manager: Some(names::MANAGER_CHILDREN.to_owned()), ..PatchParams::default() };
        self.patch(ChildKind::Deployment, name, &params, &Patch::Merge(&patch)).await?;
        tracing::info!(wal = %self.key, name, replicas, "scaled");
        Ok(true)
    }

    /// Removes the WAL's children that are not among `kept`, and answers how many.
    pub(crate) async fn remove_orphans(&self, kept: &[(ChildKind, &str)]) -> Result<usize, ApplyError> {
        let mut removed = 0;
        for ((kind, name), child) in &self.family.children {
            let ours = child.controller.as_deref() == Some(self.uid);
            if !ours || child.terminating || kept.contains(&(*kind, name)) {
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
            tracing::info!(wal = %self.key, kind = kind.as_str(), %name, "removed an orphan");
        }
        Ok(removed)
    }

    /// The child as it is. What the watches do not show is asked for: it may be just made, or somebody else's.
    async fn live(&self, kind: ChildKind, name: &str) -> Result<Option<Arc<Child>>, ApplyError> {
        if let Some(child) = self.cache.child(self.key, kind, name) {
            return Ok(Some(child));
        }
        let found = self.api(kind).get_opt(name).await;
        let Some(found) = found.map_err(|source| ApplyError::Failed { kind, name: name.to_owned(), source })? else {
            return Ok(None);
        };
        match Child::read(kind, serde_json::to_value(found)?) {
            Ok(child) => Ok(Some(Arc::new(child))),
            Err(_) => Err(ApplyError::NameTaken { kind, name: name.to_owned() }),
        }
    }

    fn check_owner(&self, live: &Child) -> Result<(), ApplyError> {
        let (kind, name) = (live.kind, live.name.to_string());
        let ours = live.controller.as_deref() == Some(self.uid);
        match live.controller {
            _ if ours && !live.terminating => Ok(()),
            Some(_) if live.wal == *self.key => Err(ApplyError::Leftover { kind, name }),
            _ => Err(ApplyError::NameTaken { kind, name }),
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
        let child = answer.and_then(|answer| Child::read(kind, answer).ok());
        self.cache.written(kind, self.key, name, child);
        written.map(drop).map_err(|error| ApplyError::from_answer(kind, name, error))
    }

    fn api(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.key.namespace, &kind.resource())
    }
}

impl ApplyError {
    fn from_answer(kind: ChildKind, name: &str, error: kube::Error) -> Self {
        let name = name.to_owned();
        match error {
            kube::Error::Api(status) if is_terminating(&status) => Self::NamespaceTerminating,
            // A time-out, too many requests or a conflict says nothing about the object.
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 413 | 422) => {
                Self::Refused { kind, name, status }
            }
            source => Self::Failed { kind, name, source },
        }
    }
}

/// Whether the API server refuses to make something because the namespace is being deleted.
pub(crate) fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
