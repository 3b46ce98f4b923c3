//! The Deployment of search.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Lifecycle, LifecycleHandler, SleepAction, TopologySpreadConstraint},
};
use tidemark_crds::names::WalComponent;

use super::{deployment, environment, metadata::selector, platform::PlatformSettings, pod_plan::PodPlan, volumes};
use crate::controllers::wal::validate::ValidatedWal;

/// Seconds that search has to answer the queries that it took.
const GRACE_SECS: i64 = 30;
/// Seconds for which a search pod that is to stop goes on answering, until no Service sends it queries.
const PRE_STOP_SLEEP_SECS: i64 = 5;

/// No pod goes before another one answers. While the index is being removed there is nothing to search.
pub(super) fn build(wal: &ValidatedWal, platform: &PlatformSettings, revision: &str) -> Deployment {
    let replicas = if wal.purging { 0 } else { wal.search.replicas };
    deployment::build(wal, platform, revision, plan(wal), replicas)
}

pub(super) fn plan(wal: &ValidatedWal) -> PodPlan<'_> {
    let sleep =
        LifecycleHandler { sleep: Some(SleepAction { seconds: PRE_STOP_SLEEP_SECS }), ..LifecycleHandler::default() };
    PodPlan {
        component: WalComponent::Search,
        role: &wal.search.role,
        command: "serve",
        environment: environment::search(wal),
        volumes: volumes::token(wal).into_iter().collect(),
        lifecycle: Some(Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }),
        grace_secs: GRACE_SECS,
        spread: Some(["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|key| spread(wal, key)).into()),
    }
}

/// Search pods prefer other nodes and zones than each other; one that finds none runs anyway.
fn spread(wal: &ValidatedWal, key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(wal, WalComponent::Search)),
        ..TopologySpreadConstraint::default()
    }
}
