//! The container of a data pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, HTTPGetAction, Probe, ResourceRequirements, SecurityContext,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use tidemark_crds::names;

use super::platform::PlatformSettings;
use crate::controllers::wal::validate::ValidatedRole;

/// What a container requests unless the spec says otherwise.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "256Mi")];

/// What the containers of all roles have in common.
pub(super) fn common(platform: &PlatformSettings, role: &ValidatedRole) -> Container {
    let port = ContainerPort {
        name: Some(names::PORT_NAME.to_owned()),
        container_port: i32::from(names::CONTAINER_PORT),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        image: Some(platform.image.clone()),
        image_pull_policy: platform.image_pull_policy.clone(),
        ports: Some(vec![port]),
        resources: Some(resources(role)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 3)),
        security_context: Some(security()),
        // The last lines of a process that ended say why.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(names::PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// The role's resources, overridden by the pod template's, and the defaults where neither sets a value.
fn resources(role: &ValidatedRole) -> ResourceRequirements {
    let over = role.template.resources.clone().unwrap_or_default();
    let mut limits = role.resources.limits.clone().unwrap_or_default();
    limits.extend(over.limits.unwrap_or_default());
    let mut requests = role.resources.requests.clone().unwrap_or_default();
    requests.extend(over.requests.unwrap_or_default());
    for (name, quantity) in DEFAULT_REQUESTS {
        // A limit without a request is the request, too.
        if !limits.contains_key(name) {
            requests.entry(name.to_owned()).or_insert_with(|| Quantity(quantity.to_owned()));
        }
    }
    let some = |map: BTreeMap<String, Quantity>| Some(map).filter(|map| !map.is_empty());
    ResourceRequirements { limits: some(limits), requests: some(requests), claims: None }
}
