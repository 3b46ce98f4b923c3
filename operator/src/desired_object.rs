//! An object as it should be, from its builder to the patch.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;

use crate::cache::ChildKind;

/// An object as it should be, with kind, labels and owner.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum DesiredObject<'a> {
    ConfigMap(&'a ConfigMap),
    Deployment(&'a Deployment),
    Job(&'a Job),
    NetworkPolicy(&'a NetworkPolicy),
    PodDisruptionBudget(&'a PodDisruptionBudget),
    Service(&'a Service),
    ServiceAccount(&'a ServiceAccount),
}

impl<'a> DesiredObject<'a> {
    pub(crate) fn kind(self) -> ChildKind {
        match self {
            Self::ConfigMap(_) => ChildKind::ConfigMap,
            Self::Deployment(_) => ChildKind::Deployment,
            Self::Job(_) => ChildKind::Job,
            Self::NetworkPolicy(_) => ChildKind::NetworkPolicy,
            Self::PodDisruptionBudget(_) => ChildKind::PodDisruptionBudget,
            Self::Service(_) => ChildKind::Service,
            Self::ServiceAccount(_) => ChildKind::ServiceAccount,
        }
    }

    pub(crate) fn name(self) -> &'a str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    fn metadata(self) -> &'a ObjectMeta {
        match self {
            Self::ConfigMap(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::Job(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::PodDisruptionBudget(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
        }
    }
}
