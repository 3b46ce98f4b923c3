//! The Deployment of the indexer.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tidemark_crds::names::{self, Component};

use super::{
    Platform, ValidatedWal,
    metadata::{metadata, selector},
    pod,
};

/// How many old `ReplicaSet`s are kept.
const HISTORY: i32 = 2;
/// After how many seconds without progress a roll-out counts as stuck.
pub(crate) const PROGRESS_SECONDS: i32 = 600;

/// One replica. A new pod comes up beside the old one and waits as a ready standby, so that the role is taken over at once;
/// that two of them never write is the catalog's matter.
pub(super) fn build(wal: &ValidatedWal, platform: &Platform, revision: &str) -> Deployment {
    // A suspended WAL that is purged needs its writer for that.
    let stopped = wal.indexer.suspended && !wal.purging;
    deployment(wal, platform, revision, Component::Indexer, i32::from(!stopped))
}

pub(super) fn deployment(
    wal: &ValidatedWal,
    platform: &Platform,
    revision: &str,
    component: Component,
    replicas: i32,
) -> Deployment {
    let mut metadata = metadata(wal, component, component.child_name(&wal.name));
    metadata.annotations = Some([(names::ANNOTATION_RELEASE.to_owned(), revision.to_owned())].into());
    let rolling =
        RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
    let spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: selector(wal, component),
        strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) }),
        revision_history_limit: Some(HISTORY),
        progress_deadline_seconds: Some(PROGRESS_SECONDS),
        template: pod::template(wal, platform, component),
        ..DeploymentSpec::default()
    };
    Deployment { metadata, spec: Some(spec), ..Deployment::default() }
}
