//! The Deployment of the indexer.

use k8s_openapi::api::apps::v1::Deployment;
use tidemark_crds::names::WalComponent;

use super::{deployment, environment, platform::PlatformSettings, pod_plan::PodPlan, volumes};
use crate::controllers::wal::validate::ValidatedWal;

/// Seconds that an indexer has to publish what it holds and to release its role.
const GRACE_SECS: i64 = 60;

/// One replica. A new pod comes up beside the old one and waits as a ready standby, so that the role is taken over at once;
/// the catalog makes sure that two of them never write.
pub(super) fn build(wal: &ValidatedWal, platform: &PlatformSettings, revision: &str) -> Deployment {
    // A suspended WAL that is purged needs its writer for that.
    let stopped = wal.indexer.suspended && !wal.purging;
    deployment::build(wal, platform, revision, plan(wal), i32::from(!stopped))
}

pub(super) fn plan(wal: &ValidatedWal) -> PodPlan<'_> {
    PodPlan {
        component: WalComponent::Indexer,
        role: &wal.indexer.role,
        command: "index",
        environment: environment::indexer(wal),
        volumes: vec![volumes::control(wal)],
        lifecycle: None,
        grace_secs: GRACE_SECS,
        spread: None,
    }
}
