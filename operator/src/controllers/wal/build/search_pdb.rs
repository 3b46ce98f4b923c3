//! The PodDisruptionBudget of search.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tidemark_crds::names::WalComponent;

use super::metadata::{metadata, selector};
use crate::controllers::wal::validate::ValidatedWal;

/// With one replica there is none: it would only block the draining of a node.
pub(super) fn build(wal: &ValidatedWal) -> Option<PodDisruptionBudget> {
    if wal.search.replicas < 2 || wal.purging {
        return None;
    }
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(1)),
        selector: Some(selector(wal, WalComponent::Search)),
        // A pod that answers nothing does not hold a node.
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        ..PodDisruptionBudgetSpec::default()
    };
    let metadata = metadata(wal, WalComponent::Search, WalComponent::Search.child_name(&wal.name));
    Some(PodDisruptionBudget { metadata, spec: Some(spec), ..PodDisruptionBudget::default() })
}
