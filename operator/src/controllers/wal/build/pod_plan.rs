//! What makes the pods of one role differ from those of another.

use k8s_openapi::api::core::v1::{EnvVar, Lifecycle, TopologySpreadConstraint, Volume, VolumeMount};
use tidemark_crds::names::WalComponent;

use crate::controllers::wal::validate::ValidatedRole;

/// The pods of one role: everything that the common builder of pods has to know about it.
pub(super) struct PodPlan<'a> {
    pub(super) component: WalComponent,
    /// What the user asks for.
    pub(super) role: &'a ValidatedRole,
    /// Command of the program.
    pub(super) command: &'static str,
    /// Variables beside those that every data pod has.
    pub(super) environment: Vec<EnvVar>,
    /// Volumes beside those that every data pod has, and where they are mounted.
    pub(super) volumes: Vec<(Volume, VolumeMount)>,
    pub(super) lifecycle: Option<Lifecycle>,
    /// Seconds until a pod that is to stop is killed, unless the user asks for others.
    pub(super) grace_secs: i64,
    /// How pods spread, unless the user asks for another way.
    pub(super) spread: Option<Vec<TopologySpreadConstraint>>,
}
