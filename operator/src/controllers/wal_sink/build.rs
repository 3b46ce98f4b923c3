//! From a validated sink to its children: who may connect to its pod, its ServiceAccount, and a Deployment of one pod.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::ServiceAccount,
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use tidemark_crds::names;

use super::{
    validate::ValidatedSink,
    variables::{variables, volumes},
};
use crate::{
    child_metadata::child_metadata,
    controllers::wal::build::{
        PROGRESS_DEADLINE_SECS, PlatformSettings, ingress_from_operator, role_account,
        sink_pod_plan::{self, SinkPodSettings},
    },
    desired_object::DesiredObject,
};

/// How many old `ReplicaSet`s are kept.
const REVISION_HISTORY_LIMIT: i32 = 2;

/// Everything that a sink consists of. Each is called `<sink>-sink`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SinkChildren {
    pub(crate) network_policy: NetworkPolicy,
    pub(crate) service_account: ServiceAccount,
    pub(crate) deployment: Deployment,
}

impl SinkChildren {
    /// All of them, in the order in which they are written: the pod last, which needs the others.
    pub(crate) fn desired(&self) -> [DesiredObject<'_>; 3] {
        let Self { network_policy, service_account, deployment } = self;
        [
            DesiredObject::NetworkPolicy(network_policy),
            DesiredObject::ServiceAccount(service_account),
            DesiredObject::Deployment(deployment),
        ]
    }
}

/// The children of `sink`.
pub(crate) fn build(sink: &ValidatedSink, platform: &PlatformSettings) -> SinkChildren {
    let selected = sink_pod_plan::selector_labels(&sink.wal, &sink.key.name);
    SinkChildren {
        network_policy: NetworkPolicy {
            metadata: metadata(sink),
            spec: Some(ingress_from_operator(selected, platform)),
        },
        service_account: role_account(metadata(sink), &sink.role.service_account_annotations),
        deployment: deployment(sink, platform),
    }
}

fn metadata(sink: &ValidatedSink) -> ObjectMeta {
    let labels = sink_pod_plan::labels(&sink.wal, &sink.key.name, &sink.uid);
    child_metadata(&sink.key.namespace, &sink.owner_reference, names::sink_child(&sink.key.name), labels)
}

/// One pod. A new one comes up beside the old one and waits until that has released the consumer: the catalog makes sure that two of them
/// never move it, also when a node is cut off and the old one goes on there.
fn deployment(sink: &ValidatedSink, platform: &PlatformSettings) -> Deployment {
    let settings = SinkPodSettings {
        image: &sink.image,
        variables: variables(sink),
        volumes: volumes(&sink.destination),
        service_account: names::sink_child(&sink.key.name),
        labels: sink_pod_plan::labels(&sink.wal, &sink.key.name, &sink.uid),
        role: &sink.role,
    };
    let selected = sink_pod_plan::selector_labels(&sink.wal, &sink.key.name);
    let rolling =
        RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
    let spec = DeploymentSpec {
        replicas: Some(i32::from(!sink.suspended)),
        selector: LabelSelector { match_labels: Some(selected), match_expressions: None },
        strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) }),
        revision_history_limit: Some(REVISION_HISTORY_LIMIT),
        progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECS),
        template: sink_pod_plan::plan(&sink.wal, platform, settings).template(),
        ..DeploymentSpec::default()
    };
    Deployment { metadata: metadata(sink), spec: Some(spec), ..Deployment::default() }
}
