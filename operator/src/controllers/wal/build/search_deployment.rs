//! The Deployment of search.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{
        Affinity, Lifecycle, LifecycleHandler, PodAffinityTerm, PodAntiAffinity, SleepAction, TopologySpreadConstraint,
        WeightedPodAffinityTerm,
    },
};
use tidemark_crds::names::WalComponent;

use super::{data_pod_plan, deployment, environment, metadata::selector, platform::PlatformSettings, volumes};
use crate::{
    controllers::wal::validate::ValidatedWal,
    pod::{PodPlan, PodSpread},
};

/// Seconds that search has to answer the queries that it took.
const GRACE_SECS: i64 = 30;
/// Seconds for which a search pod that is to stop goes on answering, until no Service sends it queries. The rest of the grace
/// period is for the queries that it took by then.
const PRE_STOP_SLEEP_SECS: i64 = 10;

/// No pod goes before another one answers. While the index is being removed there is nothing to search.
pub(super) fn build(wal: &ValidatedWal, platform: &PlatformSettings, revision: &str) -> Deployment {
    let replicas = if wal.purging { 0 } else { wal.search.replicas };
    deployment::build(wal, WalComponent::Search, revision, plan(wal, platform), replicas)
}

pub(super) fn plan<'a>(wal: &'a ValidatedWal, platform: &'a PlatformSettings) -> PodPlan<'a> {
    let mut plan = data_pod_plan::plan(wal, platform, WalComponent::Search, "serve", GRACE_SECS);
    // The API server refuses a pod that sleeps for longer than its grace period.
    let seconds = PRE_STOP_SLEEP_SECS.min((plan.termination_grace_secs() / 2).max(1));
    let sleep = LifecycleHandler { sleep: Some(SleepAction { seconds }), ..LifecycleHandler::default() };
    plan.environment.extend(environment::search(wal));
    plan.volumes.extend(volumes::token(wal));
    plan.lifecycle = Some(Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() });
    plan.spread = Some(spread(wal));
    plan
}

/// Search pods prefer other nodes and zones than each other; one that finds none runs anyway.
///
/// Zones are no second constraint: the scheduler ignores each node that lacks the label of any of them, and so all nodes of a
/// cluster without zones.
fn spread(wal: &ValidatedWal) -> PodSpread {
    let others = Some(selector(wal, WalComponent::Search));
    let nodes = TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: others.clone(),
        ..TopologySpreadConstraint::default()
    };
    let pod_affinity_term = PodAffinityTerm {
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        label_selector: others,
        ..PodAffinityTerm::default()
    };
    let zones = PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
            weight: 100,
            pod_affinity_term,
        }]),
        ..PodAntiAffinity::default()
    };
    let affinity = Affinity { pod_anti_affinity: Some(zones), ..Affinity::default() };
    PodSpread { constraints: vec![nodes], affinity }
}
