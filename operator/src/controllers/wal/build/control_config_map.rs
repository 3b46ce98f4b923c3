//! The ConfigMap through which the operator sends requests to the indexer.

use k8s_openapi::api::core::v1::ConfigMap;
use tidemark_crds::names::{self, WalComponent};

use super::metadata::metadata;
use crate::controllers::wal::validate::ValidatedWal;

/// It exists from the start, so that the kubelet watches it and a later request arrives sooner.
pub(super) fn build(wal: &ValidatedWal) -> ConfigMap {
    let purge = wal.purging.then(|| [(names::CONTROL_PURGE_KEY.to_owned(), wal.uid.clone())].into());
    ConfigMap {
        metadata: metadata(wal, WalComponent::Indexer, names::control_config_map(&wal.name)),
        data: purge,
        ..ConfigMap::default()
    }
}
