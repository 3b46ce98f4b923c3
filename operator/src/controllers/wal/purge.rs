//! The finalizer of a WAL whose index is removed with it, and what becomes of it when the WAL is deleted.
//!
//! It is there only with `deletionPolicy: Purge`. It goes when the indexer has removed the index, when the namespace is
//! being deleted, and after ten minutes in any case: a WAL that cannot be deleted would be worse than an index that stays.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tidemark_crds::{DeletionPolicy, Wal, names};

use super::{assess::Seen, dereference::Found, update_status::now};
use crate::{context::Scope, events::Happened, process::Phase};

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

/// Sees to the finalizer.
pub(crate) async fn finalize(wal: &Wal, found: &Found, scope: &Scope) -> Result<Deletion, kube::Error> {
    let wanted = wal.spec.deletion_policy == DeletionPolicy::Purge;
    let present = wal.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_PURGE);
    let Some(deleted) = wal.metadata.deletion_timestamp.as_ref() else {
        if wanted != present {
            set_finalizer(wal, wanted, scope).await?;
        }
        return Ok(Deletion::None);
    };
    if !present {
        return Ok(Deletion::Done);
    }
    let terminating = wanted && is_terminating(scope, &found.key.namespace).await;
    let outcome = outcome(&found.pods, terminating, deleted.0, now(), scope.shared.settings.purge_timeout);
    let happened = match outcome {
        _ if !wanted => None,
        Outcome::Wait(left) => return Ok(Deletion::Purging { again: left.min(AGAIN) }),
        Outcome::Purged => Some(Happened::normal("Purged", "the index was removed")),
        Outcome::Abandoned(why) => Some(Happened::warning(
            "PurgeAbandoned",
            format!("{why}; the WAL goes and the rest of its index stays; remove \"{}\" by hand", wal.spec.index.url),
        )),
    };
    // A WAL that is gone already has been told of.
    let removed = set_finalizer(wal, false, scope).await?;
    if let Some(happened) = happened.filter(|_| removed) {
        if happened.warning {
            scope.shared.metrics.purge_abandoned();
        }
        scope.shared.events.publish(&wal.object_ref(&()), &[happened]).await;
    }
    Ok(Deletion::Done)
}

/// How far a purge is.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Purged,
    Abandoned(&'static str),
    /// So long it may still take.
    Wait(Duration),
}

fn outcome(pods: &[Seen], terminating: bool, deleted: Timestamp, now: Timestamp, limit: Duration) -> Outcome {
    if pods.iter().filter_map(Seen::answer).any(|process| process.phase == Phase::Purged) {
        return Outcome::Purged;
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
async fn set_finalizer(wal: &Wal, present: bool, scope: &Scope) -> Result<bool, kube::Error> {
    let mut finalizers = wal.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != names::FINALIZER_PURGE);
    if present {
        finalizers.push(names::FINALIZER_PURGE.to_owned());
    }
    let api: Api<Wal> = Api::namespaced(scope.shared.client.clone(), &wal.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": wal.resource_version()}});
    let params = PatchParams { field_manager: Some(names::MANAGER_CHILDREN.to_owned()), ..PatchParams::default() };
    match api.patch_metadata(&wal.name_any(), &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_crds::names::Component;

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
        let look = |phase, terminating, now| outcome(&[pod(phase)], terminating, at(1000), at(now), limit);
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
}
