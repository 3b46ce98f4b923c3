//! The finalizer of a WAL whose index is removed with it, and what becomes of it when the WAL is deleted.
//!
//! It is there only with `deletionPolicy: Purge`. It goes when the indexer has removed the index, when the namespace is
//! being deleted, and after ten minutes in any case: a WAL that cannot be deleted would be worse than an index that stays.
//! A WAL that never had an indexer and cannot get one has no index, and goes at once.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tidemark_crds::{
    ConditionType, DeletionPolicy, Wal, WalStatus, is_true,
    names::{self, Component},
};

use super::{assess::Seen, dereference::Found, name_of, update_status::now};
use crate::{cache::Rollout, context::Scope, events::Happened, process::Phase};

/// What the deletion of a WAL asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// It is not being deleted.
    None,
    /// It is, and nothing is left to do.
    Done,
    /// Its index is being removed.
    Purging {
        /// When to look at it again at the latest.
        again: Duration,
    },
}

/// How often a WAL is looked at while its index is being removed.
const AGAIN: Duration = Duration::from_secs(5);

/// Sees to the finalizer. `refused` tells that the spec is not valid: no indexer is made by it.
pub(crate) async fn finalize(wal: &Wal, found: &Found, refused: bool, scope: &Scope) -> Result<Deletion, kube::Error> {
    let wanted = wal.spec.deletion_policy == DeletionPolicy::Purge;
    let present = has_finalizer(&wal.metadata);
    let Some(deleted) = wal.metadata.deletion_timestamp.as_ref() else {
        if wanted != present {
            set_finalizer(&wal.metadata, wanted, scope).await?;
        }
        return Ok(Deletion::None);
    };
    if !present {
        return Ok(Deletion::Done);
    }
    let terminating = wanted && is_terminating(scope, &found.key.namespace).await;
    let never = refused && never_indexed(found.rollout(Component::Indexer), &found.pods, &found.status);
    let outcome = outcome(&found.pods, never, terminating, deleted.0, now(), scope.shared.settings.purge_timeout);
    let happened = match outcome {
        _ if !wanted => None,
        Outcome::Wait(left) => return Ok(Deletion::Purging { again: left.min(AGAIN) }),
        Outcome::Purged => Some(Happened::normal("Purged", "the index was removed")),
        Outcome::Nothing => Some(Happened::normal(
            "NothingToPurge",
            "the spec was refused and no indexer of this WAL ever ran, so it has no index to remove",
        )),
        Outcome::Abandoned(why) => Some(Happened::warning(
            "PurgeAbandoned",
            format!("{why}; the WAL goes and the rest of its index stays; remove \"{}\" by hand", wal.spec.index.url),
        )),
    };
    let_go(&wal.metadata, &wal.object_ref(&()), happened, scope).await?;
    Ok(Deletion::Done)
}

/// Sees to the finalizer of a WAL that is being deleted and whose spec cannot be read: nobody knows what to remove, and
/// another release may be about to take over, so it is held for as long as a purge may take.
pub(crate) async fn finalize_unreadable(
    metadata: &ObjectMeta,
    reference: &ObjectReference,
    scope: &Scope,
) -> Result<Deletion, kube::Error> {
    let Some(deleted) = &metadata.deletion_timestamp else { return Ok(Deletion::None) };
    if !has_finalizer(metadata) {
        return Ok(Deletion::Done);
    }
    let terminating = is_terminating(scope, metadata.namespace.as_deref().unwrap_or_default()).await;
    match outcome(&[], false, terminating, deleted.0, now(), scope.shared.settings.purge_timeout) {
        Outcome::Wait(left) => Ok(Deletion::Purging { again: left }),
        Outcome::Abandoned(why) => {
            let told = format!("{why}: this release cannot read the WAL; the WAL goes and its index stays");
            let_go(metadata, reference, Some(Happened::warning("PurgeAbandoned", told)), scope).await?;
            Ok(Deletion::Done)
        }
        Outcome::Purged | Outcome::Nothing => Ok(Deletion::Done),
    }
}

/// Removes the finalizer and tells of it. A WAL that is gone already has been told of.
async fn let_go(
    metadata: &ObjectMeta,
    reference: &ObjectReference,
    happened: Option<Happened>,
    scope: &Scope,
) -> Result<(), kube::Error> {
    let removed = set_finalizer(metadata, false, scope).await?;
    if let Some(happened) = happened.filter(|_| removed) {
        if happened.warning {
            scope.shared.metrics.purge_abandoned();
        }
        scope.shared.events.publish(reference, &[happened]).await;
    }
    Ok(())
}

fn has_finalizer(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == names::FINALIZER_PURGE)
}

/// How far a purge is.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Purged,
    /// There is no index of it.
    Nothing,
    Abandoned(&'static str),
    /// So long it may still take.
    Wait(Duration),
}

/// Whether nothing was ever indexed by this WAL: it has no indexer, and its status tells of none. An index that was made is
/// told by the status in the same write as the epoch of its writer.
fn never_indexed(indexer: Option<&Rollout>, pods: &[Seen], status: &WalStatus) -> bool {
    let told = status.indexer.is_some() || status.epoch.is_some() || status.generation.is_some();
    indexer.is_none() && pods.is_empty() && !told && !is_true(&status.conditions, ConditionType::StorageReady)
}

fn outcome(
    pods: &[Seen],
    never: bool,
    terminating: bool,
    deleted: Timestamp,
    now: Timestamp,
    limit: Duration,
) -> Outcome {
    if pods.iter().filter_map(Seen::answer).any(|process| process.phase == Phase::Purged) {
        return Outcome::Purged;
    }
    if never {
        return Outcome::Nothing;
    }
    if terminating {
        return Outcome::Abandoned("the namespace is being deleted before the index was removed");
    }
    let spent = Duration::try_from(now.duration_since(deleted)).unwrap_or_default();
    match limit.checked_sub(spent).filter(|left| !left.is_zero()) {
        Some(left) => Outcome::Wait(left),
        None => Outcome::Abandoned("the index was not removed in time"),
    }
}

/// Whether the namespace is being deleted; `false` where the operator may not look.
async fn is_terminating(scope: &Scope, namespace: &str) -> bool {
    let api: Api<Namespace> = Api::all(scope.shared.client.clone());
    match api.get_opt(namespace).await {
        Ok(found) => found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::debug!(namespace, %error, "whether the namespace is being deleted is not known");
            false
        }
    }
}

/// Adds or removes the finalizer, unless the WAL has changed meanwhile: then it is looked at again.
/// Answers whether the WAL was still there.
async fn set_finalizer(metadata: &ObjectMeta, present: bool, scope: &Scope) -> Result<bool, kube::Error> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != names::FINALIZER_PURGE);
    if present {
        finalizers.push(names::FINALIZER_PURGE.to_owned());
    }
    let key = name_of(metadata);
    let api: Api<Wal> = Api::namespaced(scope.shared.client.clone(), &key.namespace);
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}});
    let params = PatchParams { field_manager: Some(names::MANAGER_CHILDREN.to_owned()), ..PatchParams::default() };
    match api.patch_metadata(&key.name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_crds::{IndexerRole, IndexerStatus};

    use super::*;
    use crate::{
        cache::{Pod, WalKey},
        controllers::wal::observe::Observation,
        process::Process,
    };

    fn pod(phase: Phase) -> Seen {
        let pod = Pod {
            wal: WalKey::new("data", "orders"),
            name: "p".into(),
            uid: "u".into(),
            wal_uid: "w".into(),
            component: Component::Indexer,
            address: None,
            terminating: false,
            trouble: None,
        };
        let process = Process { phase, ..Process::default() };
        let observation = Observation { process: Some(Arc::new(process)), ..Observation::default() };
        Seen { pod: Arc::new(pod), observation }
    }

    #[test]
    fn a_purge_ends_when_it_is_done_when_the_namespace_goes_and_in_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let limit = Duration::from_mins(10);
        let look = |phase, terminating, now| outcome(&[pod(phase)], false, terminating, at(1000), at(now), limit);
        assert_eq!(look(Phase::Purging, false, 1001), Outcome::Wait(Duration::from_secs(599)));
        assert_eq!(look(Phase::Purged, true, 9999), Outcome::Purged);
        assert!(matches!(look(Phase::Purging, true, 1001), Outcome::Abandoned(_)));
        assert!(matches!(look(Phase::Purging, false, 1600), Outcome::Abandoned(_)));
        assert_eq!(
            look(Phase::Writing, false, 999),
            Outcome::Wait(limit),
            "a clock behind the API server's costs nothing"
        );
    }

    #[test]
    fn a_wal_goes_at_once_only_if_no_indexer_of_it_ever_was() {
        let fresh = WalStatus::default();
        assert!(never_indexed(None, &[], &fresh));
        assert!(!never_indexed(Some(&Rollout::default()), &[], &fresh), "its indexer may have begun");
        assert!(!never_indexed(None, &[pod(Phase::Starting)], &fresh));
        let indexer = IndexerStatus { pod: "p".to_owned(), role: IndexerRole::Starting };
        for told in [
            WalStatus { indexer: Some(indexer), ..fresh.clone() },
            WalStatus { epoch: Some(1), ..fresh.clone() },
            WalStatus { generation: Some("g1".to_owned()), ..fresh.clone() },
        ] {
            assert!(!never_indexed(None, &[], &told), "an indexer answered once");
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(outcome(&[], true, false, at(0), at(1), Duration::from_mins(10)), Outcome::Nothing);
    }
}
