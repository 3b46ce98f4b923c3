//! Who may connect to the data pods. What they connect to is not limited: a store may be anywhere.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use tidemark_crds::names::{self, WalComponent};

use super::{
    metadata::{job_pod_selector, jobs_metadata, metadata, selector},
    platform::PlatformSettings,
};
use crate::controllers::wal::validate::ValidatedWal;

/// Label that Kubernetes puts on each namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The indexer admits the operator only. Policies add up: to scrape its metrics, add another one.
pub(super) fn indexer(wal: &ValidatedWal, platform: &PlatformSettings) -> NetworkPolicy {
    policy(wal, WalComponent::Indexer, vec![operator(platform)])
}

/// Search admits the operator, the WAL's own namespace, and the peers of the spec.
pub(super) fn search(wal: &ValidatedWal, platform: &PlatformSettings) -> NetworkPolicy {
    let own = NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let peers = [operator(platform), own].into_iter().chain(wal.search.allow_from.iter().cloned());
    policy(wal, WalComponent::Search, peers.collect())
}

/// The pods of jobs admit nobody: they listen to nothing.
pub(super) fn jobs(wal: &ValidatedWal) -> NetworkPolicy {
    let labels = job_pod_selector(wal);
    let spec = NetworkPolicySpec {
        pod_selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: None,
        egress: None,
    };
    let name = names::jobs_network_policy(&wal.name);
    NetworkPolicy { metadata: jobs_metadata(wal, names::COMPONENT_JOBS, name), spec: Some(spec) }
}

fn policy(wal: &ValidatedWal, component: WalComponent, from: Vec<NetworkPolicyPeer>) -> NetworkPolicy {
    let spec = ingress(selector(wal, component), from);
    NetworkPolicy { metadata: metadata(wal, component, component.child_name(&wal.name)), spec: Some(spec) }
}

/// The pods with these labels admit the operator only, on the port of reports.
pub(crate) fn ingress_from_operator(
    labels: BTreeMap<String, String>,
    platform: &PlatformSettings,
) -> NetworkPolicySpec {
    ingress(LabelSelector { match_labels: Some(labels), match_expressions: None }, vec![operator(platform)])
}

fn ingress(pods: LabelSelector, from: Vec<NetworkPolicyPeer>) -> NetworkPolicySpec {
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(names::CONTAINER_PORT))),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicySpec {
        pod_selector: Some(pods),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(vec![NetworkPolicyIngressRule { from: Some(from), ports: Some(vec![port]) }]),
        egress: None,
    }
}

fn operator(platform: &PlatformSettings) -> NetworkPolicyPeer {
    let label = |name: &str, value: &str| LabelSelector {
        match_labels: Some([(name.to_owned(), value.to_owned())].into()),
        match_expressions: None,
    };
    NetworkPolicyPeer {
        namespace_selector: Some(label(NAMESPACE_NAME, &platform.operator_namespace)),
        pod_selector: Some(label(names::LABEL_NAME, names::OPERATOR_APP)),
        ip_block: None,
    }
}
