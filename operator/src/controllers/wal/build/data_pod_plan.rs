//! What the pods of all roles of a WAL have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ContainerPort;
use serde_json::json;
use tidemark_crds::names::{self, WalComponent};

use super::{environment, metadata::labels, platform::PlatformSettings, volumes};
use crate::{
    compare,
    controllers::wal::validate::{StorePlace, ValidatedCredentials, ValidatedStore, ValidatedWal},
    pod::{PodPlan, http_probe},
};

/// Label by which Azure's webhook finds the pods that get an identity.
pub(super) const AZURE_IDENTITY: &str = "azure.workload.identity/use";

/// Annotation of a pod: digest of the annotations of its ServiceAccount.
const ANNOTATION_ACCOUNT: &str = "tidemark.dev/service-account-digest";

/// A pod of the WAL that runs `command`, has the WAL's stores, and answers on the common port.
pub(super) fn plan<'a>(
    wal: &'a ValidatedWal,
    platform: &'a PlatformSettings,
    component: WalComponent,
    command: &str,
    grace_secs: i64,
) -> PodPlan<'a> {
    let role = wal.role(component);
    let stores = wal.stores.of_index();
    let labels = with_identity(wal, &stores, labels(wal, component));
    PodPlan {
        container: component.as_str(),
        image: &platform.image,
        image_pull_policy: platform.image_pull_policy.as_deref(),
        arguments: vec![command.to_owned()],
        environment: environment::common(wal, component),
        ports: vec![port()],
        volumes: volumes::common(&stores, &role.cache),
        liveness: Some(http_probe(names::PORT_NAME, "/healthz", 10, 6)),
        readiness: Some(http_probe(names::PORT_NAME, "/readyz", 5, 3)),
        lifecycle: None,
        labels,
        annotations: account_digest(&role.service_account_annotations),
        service_account: component.child_name(&wal.name),
        restart_policy: None,
        grace_secs,
        spread: None,
        resources: &role.resources,
        user: &role.template,
    }
}

/// The annotation of a pod that changes with those of its ServiceAccount: clouds inject an identity when a pod is made, so that other
/// annotations reach other pods only.
pub(super) fn account_digest(accounts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let digest = (!accounts.is_empty()).then(|| (ANNOTATION_ACCOUNT.to_owned(), compare::digest(&json!(accounts))));
    digest.into_iter().collect()
}

/// The labels of a pod that has these stores, with the one that it needs to get an identity.
pub(super) fn with_identity(
    wal: &ValidatedWal,
    stores: &[(StorePlace, &ValidatedStore)],
    mut labels: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    if wants_azure_identity(wal, stores) {
        labels.insert(AZURE_IDENTITY.to_owned(), "true".to_owned());
    }
    labels
}

pub(super) fn port() -> ContainerPort {
    ContainerPort {
        name: Some(names::PORT_NAME.to_owned()),
        container_port: i32::from(names::CONTAINER_PORT),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn wants_azure_identity(wal: &ValidatedWal, stores: &[(StorePlace, &ValidatedStore)]) -> bool {
    stores.iter().any(|(place, store)| {
        store.access == ValidatedCredentials::WorkloadIdentity
            && wal.stores.urls(*place).iter().any(|url| url.starts_with("az://"))
    })
}
