//! Writes statuses: on a change of a condition at once, for moved counters at most once a minute, else not at all.

use std::{fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::object::HasStatus,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{clock, object_owner::ObjectOwner, status_cache::StatusCache};

/// Between two writes of counters that moved.
const COUNTERS_INTERVAL: Duration = Duration::from_mins(1);

/// A status, as far as it decides when it is written.
pub(crate) trait ReportedStatus: Clone + PartialEq {
    /// The part that does not move while the object does its work. A change of it is written at once.
    fn without_counters(&self) -> Self;

    /// This status with those fields of `before` that move with the clock; alone they are not news.
    fn with_clock_of(&self, before: &Self) -> Self;

    /// When the status was observed.
    fn observed_time(&self) -> Option<Timestamp>;
}

/// When a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteTiming {
    /// The API server has it already.
    Never,
    /// Something changed that people and programs wait for.
    Now,
    /// Counters moved; they were written less than a minute ago.
    After(Duration),
}

/// When to write `after` over `before`, which was written `since` ago.
pub(crate) fn due<S: ReportedStatus>(before: &S, after: &S, since: Duration) -> WriteTiming {
    if before.without_counters() != after.without_counters() {
        return WriteTiming::Now;
    }
    match COUNTERS_INTERVAL.checked_sub(since).filter(|left| !left.is_zero()) {
        _ if after.with_clock_of(before) == *before => WriteTiming::Never,
        Some(left) => WriteTiming::After(left),
        None => WriteTiming::Now,
    }
}

/// How long ago the status was written, as far as it or this operator knows.
fn since<S: ReportedStatus>(status: &S, written: Option<Timestamp>, now: Timestamp) -> Duration {
    let last = status.observed_time().into_iter().chain(written).max();
    last.and_then(|last| Duration::try_from(now.duration_since(last)).ok()).unwrap_or(COUNTERS_INTERVAL)
}

/// What applies a status to the object of this name and UID, and to no later one of the name.
pub(crate) fn status_patch<K: Resource<DynamicType = ()>>(
    name: &str,
    uid: Option<&str>,
    status: &impl Serialize,
) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "uid": uid},
        "status": status,
    })
}

/// Writes the statuses of the objects of one kind.
pub(crate) struct StatusWriter<'a, K: HasStatus> {
    pub(crate) client: &'a Client,
    pub(crate) statuses: &'a StatusCache<K>,
    pub(crate) field_manager: &'static str,
}

impl<K> StatusWriter<'_, K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + HasStatus + Clone + Debug + DeserializeOwned,
    K::Status: ReportedStatus + Default + Serialize,
{
    /// Writes `after` over `before`, if it is time. Answers when that is: [`WriteTiming::Now`] says that it was written.
    pub(crate) async fn update(
        &self,
        owner: ObjectOwner<'_>,
        before: &K::Status,
        after: &K::Status,
    ) -> Result<WriteTiming, kube::Error> {
        let timing = due(before, after, since(before, self.statuses.written(owner.key), clock::now()));
        if timing == WriteTiming::Now {
            self.write(owner, after).await?;
        }
        Ok(timing)
    }

    /// Writes the status of `owner`. Another object of the same name does not get it.
    async fn write(&self, owner: ObjectOwner<'_>, status: &K::Status) -> Result<(), kube::Error> {
        let ObjectOwner { key, uid, .. } = owner;
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = status_patch::<K>(&key.name, Some(uid), status);
        let params = PatchParams::apply(self.field_manager).force();
        self.statuses.begin(key, status);
        match api.patch_status(&key.name, &params, &Patch::Apply(&patch)).await {
            Ok(written) => {
                self.statuses.record(key, &written, clock::now());
                Ok(())
            }
            Err(error) => {
                self.statuses.discard(key);
                Err(error)
            }
        }
    }
}
