//! One ServiceAccount a role. They have no rights in the cluster; clouds give them rights on buckets.

use k8s_openapi::api::core::v1::ServiceAccount;
use tidemark_crds::names::WalComponent;

use super::metadata::{metadata, non_empty};
use crate::controllers::wal::validate::ValidatedWal;

pub(super) fn build(wal: &ValidatedWal, component: WalComponent) -> ServiceAccount {
    let role = wal.role(component);
    let mut metadata = metadata(wal, component, component.child_name(&wal.name));
    metadata.annotations = non_empty(role.service_account_annotations.clone());
    ServiceAccount { metadata, automount_service_account_token: Some(false), ..ServiceAccount::default() }
}
