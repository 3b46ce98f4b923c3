//! From a validated WAL to its children: one pure builder a child.

mod containers;
mod control_config_map;
mod environment;
mod indexer_deployment;
mod metadata;
mod network_policies;
mod pod;
mod release;
mod search_deployment;
mod search_pdb;
mod search_service;
mod service_accounts;
#[cfg(test)]
mod tests;
mod volumes;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use serde_json::Value;
use tidemark_crds::names::Component;

pub use self::release::release_revision;
pub(crate) use self::{environment::TOKEN_FILE_VARIABLE, indexer_deployment::PROGRESS_SECONDS, volumes::TOKEN_VOLUME};
use super::validate::ValidatedWal;

/// What the operator itself puts into its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Image of the data pods.
    pub image: String,
    /// When the kubelet pulls it: `Always`, `IfNotPresent` or `Never`; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Namespace in which the operator's pods run: they are let in to ask the data pods how they are.
    pub operator_namespace: String,
}

/// Everything that a WAL consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// `<wal>-indexer`.
    pub indexer_service_account: ServiceAccount,
    /// `<wal>-search`.
    pub search_service_account: ServiceAccount,
    /// `<wal>-control`: through it the operator asks the indexer for something.
    pub control_config_map: ConfigMap,
    /// `<wal>-indexer`.
    pub indexer_network_policy: NetworkPolicy,
    /// `<wal>-search`.
    pub search_network_policy: NetworkPolicy,
    /// `<wal>-search`.
    pub search_service: Service,
    /// `<wal>-search`, with two or more replicas; `None` means that there must be none.
    pub search_pdb: Option<PodDisruptionBudget>,
    /// `<wal>-search`. Annotated with the release revision.
    pub search_deployment: Deployment,
    /// `<wal>-indexer`. Annotated with the release revision.
    pub indexer_deployment: Deployment,
}

impl Children {
    /// All of them as JSON with kind and version, in the order in which they are made: who may connect before anything
    /// else, ServiceAccounts before the pods that need them, search before the indexer. A child that is built and missing here does not compile.
    pub fn objects(&self) -> serde_json::Result<Vec<Value>> {
        let Self {
            indexer_service_account,
            search_service_account,
            control_config_map,
            indexer_network_policy,
            search_network_policy,
            search_service,
            search_pdb,
            search_deployment,
            indexer_deployment,
        } = self;
        let mut objects = vec![
            serde_json::to_value(indexer_network_policy)?,
            serde_json::to_value(search_network_policy)?,
            serde_json::to_value(search_service)?,
            serde_json::to_value(indexer_service_account)?,
            serde_json::to_value(search_service_account)?,
            serde_json::to_value(control_config_map)?,
        ];
        if let Some(search_pdb) = search_pdb {
            objects.push(serde_json::to_value(search_pdb)?);
        }
        objects.push(serde_json::to_value(search_deployment)?);
        objects.push(serde_json::to_value(indexer_deployment)?);
        Ok(objects)
    }
}

/// The children of `wal`. `revision` is [`release_revision`] of the same `platform`, which does not change while it runs.
pub fn build(wal: &ValidatedWal, platform: &Platform, revision: &str) -> Children {
    Children {
        indexer_service_account: service_accounts::build(wal, Component::Indexer),
        search_service_account: service_accounts::build(wal, Component::Search),
        control_config_map: control_config_map::build(wal),
        indexer_network_policy: network_policies::indexer(wal, platform),
        search_network_policy: network_policies::search(wal, platform),
        search_service: search_service::build(wal),
        search_pdb: search_pdb::build(wal),
        search_deployment: search_deployment::build(wal, platform, revision),
        indexer_deployment: indexer_deployment::build(wal, platform, revision),
    }
}
