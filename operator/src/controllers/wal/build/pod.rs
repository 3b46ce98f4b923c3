//! The pod of a role.

use k8s_openapi::{
    api::core::v1::{PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tidemark_crds::{PodTemplateSettings, names::Component};

use super::{
    Platform, ValidatedWal, containers,
    metadata::{labels, non_empty, selector},
    volumes,
};
use crate::controllers::wal::validate::{Access, ValidatedRole};

/// User and group of the image.
const USER: i64 = 65532;
/// Seconds that an indexer has to publish what it holds and to release its role.
const INDEXER_GRACE: i64 = 60;
/// Seconds that search has to answer the queries that it took.
const SEARCH_GRACE: i64 = 30;
/// Label by which Azure's webhook finds the pods that get an identity.
pub(super) const AZURE_IDENTITY: &str = "azure.workload.identity/use";

pub(super) fn template(wal: &ValidatedWal, platform: &Platform, component: Component) -> PodTemplateSpec {
    let role = match component {
        Component::Indexer => &wal.indexer.role,
        Component::Search => &wal.search.role,
    };
    // Ours come last: they select the pods.
    let mut pod_labels = role.template.labels.clone();
    if wants_azure_identity(wal) {
        pod_labels.insert(AZURE_IDENTITY.to_owned(), "true".to_owned());
    }
    pod_labels.extend(labels(wal, component));
    let metadata = ObjectMeta {
        labels: Some(pod_labels),
        annotations: non_empty(role.template.annotations.clone()),
        ..ObjectMeta::default()
    };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec(wal, platform, component, role)) }
}

fn spec(wal: &ValidatedWal, platform: &Platform, component: Component, role: &ValidatedRole) -> PodSpec {
    let template = &role.template;
    let grace = match component {
        Component::Indexer => INDEXER_GRACE,
        Component::Search => SEARCH_GRACE,
    };
    PodSpec {
        service_account_name: Some(component.child_name(&wal.name)),
        automount_service_account_token: Some(false),
        // A Service that is called "tidemark" would set variables that look like ours.
        enable_service_links: Some(false),
        security_context: Some(security()),
        containers: vec![containers::build(wal, platform, component, role)],
        volumes: Some(volumes::volumes(wal, component)),
        termination_grace_period_seconds: Some(template.termination_grace_period_seconds.unwrap_or(grace)),
        node_selector: non_empty(template.node_selector.clone()),
        tolerations: some(template.tolerations.clone()),
        affinity: template.affinity.clone(),
        topology_spread_constraints: spread(wal, component, template),
        priority_class_name: template.priority_class_name.clone(),
        image_pull_secrets: some(template.image_pull_secrets.clone()),
        ..PodSpec::default()
    }
}

fn security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // Without it the user could not read the mounted keys.
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// Search pods prefer other nodes and zones than each other; one that finds none runs anyway.
fn spread(
    wal: &ValidatedWal,
    component: Component,
    template: &PodTemplateSettings,
) -> Option<Vec<TopologySpreadConstraint>> {
    if let Some(constraints) = &template.topology_spread_constraints {
        return some(constraints.clone());
    }
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(wal, component)),
        ..TopologySpreadConstraint::default()
    };
    match component {
        Component::Indexer => None,
        Component::Search => Some(vec![over("kubernetes.io/hostname"), over("topology.kubernetes.io/zone")]),
    }
}

fn wants_azure_identity(wal: &ValidatedWal) -> bool {
    wal.stores.each().into_iter().any(|(place, store)| {
        store.access == Access::WorkloadIdentity && wal.stores.urls(place).iter().any(|url| url.starts_with("az://"))
    })
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
