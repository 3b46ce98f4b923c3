//! The ConfigMap through which the operator asks the indexer for something.

use k8s_openapi::api::core::v1::ConfigMap;
use tidemark_crds::names::{self, Component};

use super::metadata::metadata;
use crate::controllers::wal::validate::ValidatedWal;

/// It is there from the start, so that the kubelet watches it: what is asked for later arrives sooner.
pub(super) fn build(wal: &ValidatedWal) -> ConfigMap {
    let purge = wal.purging.then(|| [(names::CONTROL_PURGE_KEY.to_owned(), wal.uid.clone())].into());
    ConfigMap {
        metadata: metadata(wal, Component::Indexer, names::control_config_map(&wal.name)),
        data: purge,
        ..ConfigMap::default()
    }
}
