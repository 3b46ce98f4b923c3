//! Everything that a WAL consists of.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use serde_json::Value;
use tidemark_crds::names::WalComponent;

use super::{
    control_config_map, indexer_deployment, network_policies, platform::PlatformSettings, search_deployment,
    search_pdb, search_service, service_accounts,
};
use crate::{controllers::wal::validate::ValidatedWal, desired_object::DesiredObject};

/// Everything that a WAL consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct WalChildren {
    /// `<wal>-indexer`.
    pub indexer_service_account: ServiceAccount,
    /// `<wal>-search`.
    pub search_service_account: ServiceAccount,
    /// `<wal>-jobs`.
    pub jobs_service_account: ServiceAccount,
    /// `<wal>-cleanup`.
    pub cleanup_service_account: ServiceAccount,
    /// `<wal>-control`: through it the operator sends requests to the indexer.
    pub control_config_map: ConfigMap,
    /// `<wal>-indexer`.
    pub indexer_network_policy: NetworkPolicy,
    /// `<wal>-search`.
    pub search_network_policy: NetworkPolicy,
    /// `<wal>-jobs`.
    pub jobs_network_policy: NetworkPolicy,
    /// `<wal>-search`.
    pub search_service: Service,
    /// `<wal>-search`, with two or more replicas; `None` means that there must be none.
    pub search_pdb: Option<PodDisruptionBudget>,
    /// `<wal>-search`. Annotated with the release revision.
    pub search_deployment: Deployment,
    /// `<wal>-indexer`. Annotated with the release revision.
    pub indexer_deployment: Deployment,
}

/// The children as they are sent to the API server.
#[derive(Clone, Debug)]
pub(crate) struct DesiredChildren<'a> {
    /// Everything but the Deployments.
    pub(crate) plain: Vec<DesiredObject<'a>>,
    pub(crate) search: &'a Deployment,
    pub(crate) indexer: &'a Deployment,
}

impl<'a> DesiredChildren<'a> {
    /// All of them, in the order in which they are written.
    pub(crate) fn all(&self) -> impl Iterator<Item = DesiredObject<'a>> {
        let deployments = [self.search, self.indexer].map(DesiredObject::Deployment);
        self.plain.iter().copied().chain(deployments)
    }
}

impl WalChildren {
    /// All of them, in the order in which they are written: who may connect before anything else, ServiceAccounts before the
    /// pods that need them, search before the indexer. A child that is built and missing here does not compile.
    pub(crate) fn desired(&self) -> DesiredChildren<'_> {
        let Self {
            indexer_service_account,
            search_service_account,
            jobs_service_account,
            cleanup_service_account,
            control_config_map,
            indexer_network_policy,
            search_network_policy,
            jobs_network_policy,
            search_service,
            search_pdb,
            search_deployment,
            indexer_deployment,
        } = self;
        let mut plain = vec![
            DesiredObject::NetworkPolicy(indexer_network_policy),
            DesiredObject::NetworkPolicy(search_network_policy),
            DesiredObject::NetworkPolicy(jobs_network_policy),
            DesiredObject::Service(search_service),
            DesiredObject::ServiceAccount(indexer_service_account),
            DesiredObject::ServiceAccount(search_service_account),
            DesiredObject::ServiceAccount(jobs_service_account),
            DesiredObject::ServiceAccount(cleanup_service_account),
            DesiredObject::ConfigMap(control_config_map),
        ];
        if let Some(search_pdb) = search_pdb {
            plain.push(DesiredObject::PodDisruptionBudget(search_pdb));
        }
        DesiredChildren { plain, search: search_deployment, indexer: indexer_deployment }
    }

    /// All of them as JSON with kind and version, in the order in which they are written.
    pub fn objects(&self) -> serde_json::Result<Vec<Value>> {
        self.desired().all().map(serde_json::to_value).collect()
    }
}

/// The children of `wal`. `revision` is [`release_revision`] of the same `platform`, which does not change while it runs.
pub fn build(wal: &ValidatedWal, platform: &PlatformSettings, revision: &str) -> WalChildren {
    WalChildren {
        indexer_service_account: service_accounts::build(wal, WalComponent::Indexer),
        search_service_account: service_accounts::build(wal, WalComponent::Search),
        jobs_service_account: service_accounts::jobs(wal),
        cleanup_service_account: service_accounts::cleanup(wal),
        control_config_map: control_config_map::build(wal),
        indexer_network_policy: network_policies::indexer(wal, platform),
        search_network_policy: network_policies::search(wal, platform),
        jobs_network_policy: network_policies::jobs(wal),
        search_service: search_service::build(wal),
        search_pdb: search_pdb::build(wal),
        search_deployment: search_deployment::build(wal, platform, revision),
        indexer_deployment: indexer_deployment::build(wal, platform, revision),
    }
}
