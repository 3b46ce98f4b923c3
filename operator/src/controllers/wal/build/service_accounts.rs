//! One ServiceAccount a role. They have no rights in the cluster; clouds give them rights on buckets.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ServiceAccount, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use tidemark_crds::names::{self, WalComponent};

use super::metadata::{jobs_metadata, metadata, non_empty};
use crate::controllers::wal::validate::ValidatedWal;

pub(super) fn build(wal: &ValidatedWal, component: WalComponent) -> ServiceAccount {
    let annotations = &wal.role(component).service_account_annotations;
    role_account(metadata(wal, component, component.child_name(&wal.name)), annotations)
}

pub(super) fn jobs(wal: &ValidatedWal) -> ServiceAccount {
    let metadata = jobs_metadata(wal, names::COMPONENT_JOBS, names::jobs_service_account(&wal.name));
    role_account(metadata, &wal.jobs.role.service_account_annotations)
}

/// Its jobs alone delete from the log.
pub(super) fn cleanup(wal: &ValidatedWal) -> ServiceAccount {
    let metadata = jobs_metadata(wal, names::COMPONENT_CLEANUP, names::cleanup_service_account(&wal.name));
    role_account(metadata, &wal.jobs.cleanup_account_annotations)
}

/// The ServiceAccount of a role: nothing of the cluster's API is asked with it.
pub(crate) fn role_account(mut metadata: ObjectMeta, annotations: &BTreeMap<String, String>) -> ServiceAccount {
    metadata.annotations = non_empty(annotations.clone());
    ServiceAccount { metadata, automount_service_account_token: Some(false), ..ServiceAccount::default() }
}
