//! The Deployment of the indexer.

use k8s_openapi::api::apps::v1::Deployment;
use tidemark_crds::names::WalComponent;

use super::{data_pod_plan, deployment, environment, platform::PlatformSettings, volumes};
use crate::{controllers::wal::validate::ValidatedWal, pod::PodPlan};

/// Seconds that an indexer has to publish what it holds and to release its role.
const GRACE_SECS: i64 = 60;

/// One replica. A new pod comes up beside the old one and waits as a ready standby, so that the role is taken over at once;
/// the catalog makes sure that two of them never write.
pub(super) fn build(wal: &ValidatedWal, platform: &PlatformSettings, revision: &str) -> Deployment {
    // A suspended WAL that is purged needs its writer for that.
    let stopped = wal.indexer.suspended && !wal.purging;
    deployment::build(wal, WalComponent::Indexer, revision, plan(wal, platform), i32::from(!stopped))
}

pub(super) fn plan<'a>(wal: &'a ValidatedWal, platform: &'a PlatformSettings) -> PodPlan<'a> {
    let mut plan = data_pod_plan::plan(wal, platform, WalComponent::Indexer, "index", GRACE_SECS);
    plan.environment.extend(environment::indexer(wal));
    plan.volumes.push(volumes::control(wal));
    plan
}
