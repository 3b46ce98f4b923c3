//! The Deployment of a role.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tidemark_crds::names::{self, WalComponent};

use super::metadata::{metadata, selector};
use crate::{controllers::wal::validate::ValidatedWal, pod::PodPlan};

/// How many old `ReplicaSet`s are kept.
const REVISION_HISTORY_LIMIT: i32 = 2;
/// After how many seconds without progress a roll-out counts as stalled.
/// Kubernetes' default; it is explicit because the message of a stalled upgrade names it.
pub(crate) const PROGRESS_DEADLINE_SECS: i32 = 600;

/// A new pod becomes available before an old one goes.
pub(super) fn build(
    wal: &ValidatedWal,
    component: WalComponent,
    revision: &str,
    plan: PodPlan<'_>,
    replicas: i32,
) -> Deployment {
    let mut metadata = metadata(wal, component, component.child_name(&wal.name));
    let annotations = [
        (names::ANNOTATION_RELEASE.to_owned(), revision.to_owned()),
        (names::ANNOTATION_SPEC_DIGEST.to_owned(), wal.role(component).spec_digest.clone()),
    ];
    metadata.annotations = Some(annotations.into());
    let rolling =
        RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
    let spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: selector(wal, component),
        strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) }),
        revision_history_limit: Some(REVISION_HISTORY_LIMIT),
        progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECS),
        template: plan.template(),
        ..DeploymentSpec::default()
    };
    Deployment { metadata, spec: Some(spec), ..Deployment::default() }
}
