//! The Deployment of search.

use k8s_openapi::api::apps::v1::Deployment;
use tidemark_crds::names::Component;

use super::{Platform, ValidatedWal, indexer_deployment::deployment};

/// No pod goes before another one answers. While the index is being removed there is nothing to search.
pub(super) fn build(wal: &ValidatedWal, platform: &Platform, revision: &str) -> Deployment {
    let replicas = if wal.purging { 0 } else { wal.search.replicas };
    deployment(wal, platform, revision, Component::Search, replicas)
}
