//! The pod of a role.

use k8s_openapi::{
    api::core::v1::{Container, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    containers, environment,
    metadata::{labels, non_empty},
    platform::PlatformSettings,
    pod_plan::PodPlan,
    volumes,
};
use crate::controllers::wal::validate::{StoreAccess, ValidatedWal};

/// User and group of the image.
const USER_ID: i64 = 65532;
/// Label by which Azure's webhook finds the pods that get an identity.
pub(super) const AZURE_IDENTITY: &str = "azure.workload.identity/use";

pub(super) fn template(wal: &ValidatedWal, platform: &PlatformSettings, plan: PodPlan<'_>) -> PodTemplateSpec {
    let user = &plan.role.template;
    // Ours come last: they select the pods.
    let mut pod_labels = user.labels.clone();
    if wants_azure_identity(wal) {
        pod_labels.insert(AZURE_IDENTITY.to_owned(), "true".to_owned());
    }
    pod_labels.extend(labels(wal, plan.component));
    let metadata = ObjectMeta {
        labels: Some(pod_labels),
        annotations: non_empty(user.annotations.clone()),
        ..ObjectMeta::default()
    };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec(wal, platform, plan)) }
}

fn spec(wal: &ValidatedWal, platform: &PlatformSettings, plan: PodPlan<'_>) -> PodSpec {
    let PodPlan { component, role, command, environment, volumes, lifecycle, grace_secs, spread } = plan;
    let user = &role.template;
    let (volumes, mounts) = volumes::common(wal).into_iter().chain(volumes).unzip();
    let container = Container {
        name: component.as_str().to_owned(),
        args: Some(vec![command.to_owned()]),
        env: Some([environment::common(wal), environment, user.env.clone()].concat()),
        volume_mounts: Some(mounts),
        lifecycle,
        ..containers::common(platform, role)
    };
    PodSpec {
        service_account_name: Some(component.child_name(&wal.name)),
        automount_service_account_token: Some(false),
        // A Service that is called "tidemark" would set variables that look like ours.
        enable_service_links: Some(false),
        security_context: Some(security()),
        containers: vec![container],
        volumes: Some(volumes),
        termination_grace_period_seconds: Some(user.termination_grace_period_seconds.unwrap_or(grace_secs)),
        node_selector: non_empty(user.node_selector.clone()),
        tolerations: some(user.tolerations.clone()),
        affinity: user.affinity.clone(),
        topology_spread_constraints: user.topology_spread_constraints.clone().map_or(spread, some),
        priority_class_name: user.priority_class_name.clone(),
        image_pull_secrets: some(user.image_pull_secrets.clone()),
        ..PodSpec::default()
    }
}

fn security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER_ID),
        run_as_group: Some(USER_ID),
        // Without it the user could not read the mounted keys.
        fs_group: Some(USER_ID),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn wants_azure_identity(wal: &ValidatedWal) -> bool {
    wal.stores.each().into_iter().any(|(place, store)| {
        store.access == StoreAccess::WorkloadIdentity
            && wal.stores.urls(place).iter().any(|url| url.starts_with("az://"))
    })
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
