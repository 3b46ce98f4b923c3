//! Parts of a pod's container.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Capabilities, HTTPGetAction, Probe, ResourceRequirements, SecurityContext},
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::mounted_volume::quantity;

/// What a container requests unless the spec says otherwise, beside its part of the node's disk.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "256Mi")];

/// A probe that asks `path` on the port with this name.
pub(crate) fn http_probe(port: &str, path: &str, period_secs: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_secs),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

pub(super) fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// The role's resources, overridden by the user's template, and the defaults where neither sets a value: among them `disk_bytes` of
/// the node's disk, without which the scheduler would not count what emptyDir volumes hold.
pub(super) fn resources(
    role: &ResourceRequirements,
    user: Option<&ResourceRequirements>,
    disk_bytes: u64,
) -> ResourceRequirements {
    let over = user.cloned().unwrap_or_default();
    let mut limits = role.limits.clone().unwrap_or_default();
    limits.extend(over.limits.unwrap_or_default());
    let mut requests = role.requests.clone().unwrap_or_default();
    requests.extend(over.requests.unwrap_or_default());
    let fixed = DEFAULT_REQUESTS.map(|(name, quantity)| (name, Quantity(quantity.to_owned())));
    let disk = (disk_bytes > 0).then(|| ("ephemeral-storage", quantity(disk_bytes)));
    for (name, quantity) in fixed.into_iter().chain(disk) {
        // A limit without a request is the request, too.
        if !limits.contains_key(name) {
            requests.entry(name.to_owned()).or_insert(quantity);
        }
    }
    let some = |map: BTreeMap<String, Quantity>| Some(map).filter(|map| !map.is_empty());
    ResourceRequirements { limits: some(limits), requests: some(requests), claims: None }
}

/// `None` for an empty list: server-side apply then owns no such field.
pub(super) fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
