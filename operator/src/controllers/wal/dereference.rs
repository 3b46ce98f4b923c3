//! What there is of a WAL, from the watches: no request.

use tidemark_crds::{Wal, WalStatus, names::Component};

use super::{assess::Seen, name_of};
use crate::{
    cache::{ChildKind, Family, Rollout, WalKey},
    context::Scope,
};

/// A WAL's children, its pods with what they say, and its status.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) key: WalKey,
    pub(crate) uid: String,
    pub(crate) family: Family,
    pub(crate) pods: Vec<Seen>,
    /// As it was written last, even if the watch does not show it yet.
    pub(crate) status: WalStatus,
}

/// Finds it.
pub(crate) fn dereference(wal: &Wal, scope: &Scope) -> Found {
    let key = name_of(&wal.metadata);
    let uid = wal.metadata.uid.clone().unwrap_or_default();
    let family = scope.cache.family(&key);
    let ours = family.pods.values().filter(|pod| *pod.wal_uid == *uid);
    let pods =
        ours.map(|pod| Seen { pod: pod.clone(), observation: scope.observations.get(&pod.uid).unwrap_or_default() });
    let pods = pods.collect();
    let status = scope.shared.ledger.status(&key, wal);
    Found { key, uid, family, pods, status }
}

impl Found {
    /// How far the Deployment of a role is, if it is there and this WAL's.
    pub(crate) fn rollout(&self, component: Component) -> Option<&Rollout> {
        let name = component.child_name(&self.key.name);
        let child = self.family.child(ChildKind::Deployment, &name)?;
        child.rollout.as_ref().filter(|_| child.controller.as_deref() == Some(&self.uid))
    }
}
