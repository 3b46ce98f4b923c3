//! Names, labels and owners that every child bears.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use tidemark_crds::names::{self, WalComponent};

use crate::{child_metadata::child_metadata, controllers::wal::validate::ValidatedWal};

/// Metadata of the child `name` that belongs to `component`.
pub(super) fn metadata(wal: &ValidatedWal, component: WalComponent, name: String) -> ObjectMeta {
    child_metadata(&wal.namespace, &wal.owner_reference, name, labels(wal, component))
}

/// The labels of every child and pod.
pub(super) fn labels(wal: &ValidatedWal, component: WalComponent) -> BTreeMap<String, String> {
    let mut labels = selector_labels(wal, component);
    labels.extend(wal_labels(wal));
    labels
}

/// The labels by which the operator finds what belongs to a WAL.
fn wal_labels(wal: &ValidatedWal) -> BTreeMap<String, String> {
    [
        (names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned()),
        (names::LABEL_WAL.to_owned(), wal.name.clone()),
        (names::LABEL_WAL_UID.to_owned(), wal.uid.clone()),
    ]
    .into()
}

/// Metadata of the child `name` that belongs to jobs.
pub(super) fn jobs_metadata(wal: &ValidatedWal, component: &str, name: String) -> ObjectMeta {
    child_metadata(&wal.namespace, &wal.owner_reference, name, jobs_labels(wal, component))
}

/// The labels of what belongs to jobs. They select no data pod.
pub(super) fn jobs_labels(wal: &ValidatedWal, component: &str) -> BTreeMap<String, String> {
    let mut labels = wal_labels(wal);
    labels.extend(component_labels(wal, component));
    labels
}

/// The labels that select the pods of all jobs, those of cleanups too.
pub(super) fn job_pod_selector(wal: &ValidatedWal) -> BTreeMap<String, String> {
    component_labels(wal, names::COMPONENT_JOBS).into()
}

pub(super) fn component_labels(wal: &ValidatedWal, component: &str) -> [(String, String); 3] {
    [
        (names::LABEL_COMPONENT.to_owned(), component.to_owned()),
        (names::LABEL_INSTANCE.to_owned(), wal.name.clone()),
        (names::LABEL_NAME.to_owned(), names::APP.to_owned()),
    ]
}

/// The labels that select the pods of `component`. They never change: a Deployment's selector cannot.
pub(super) fn selector_labels(wal: &ValidatedWal, component: WalComponent) -> BTreeMap<String, String> {
    component.selector(&wal.name).map(|(name, value)| (name.to_owned(), value)).into()
}

/// [`selector_labels`] as a selector.
pub(super) fn selector(wal: &ValidatedWal, component: WalComponent) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(wal, component)), match_expressions: None }
}

/// `None` for an empty map: server-side apply then owns no such field.
pub(super) fn non_empty(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(map).filter(|map| !map.is_empty())
}
