//! The roles of a WAL's data pods: indexer and search.

use std::collections::BTreeMap;

use k8s_openapi::api::{core::v1::ResourceRequirements, networking::v1::NetworkPolicyPeer};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache::CacheSpec;
use crate::{
    pod_template::PodTemplate,
    schema::{annotations, peers, resources},
    storage::SecretReference,
};

/// What every role has.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleSpec {
    /// Requests and limits of the container. What is left out is requested as 100m CPU, 256Mi memory, and as
    /// `ephemeral-storage` what the emptyDir volumes may hold. A change rolls the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    /// The disk of each pod.
    #[serde(default)]
    pub cache: CacheSpec,
    /// Annotations of the role's ServiceAccount (`<name>-indexer`, `<name>-search`, `<name>-jobs`), for workload identity:
    /// `eks.amazonaws.com/role-arn`, `iam.gke.io/gcp-service-account`, `azure.workload.identity/client-id`. Search only reads:
    /// its account needs no right to write. A change rolls the pods: clouds look at them when a pod is made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub service_account_annotations: BTreeMap<String, String>,
    /// What to add to the pods: `metadata.labels`, `metadata.annotations`, and of `spec` `nodeSelector`, `tolerations`,
    /// `affinity`, `topologySpreadConstraints`, `priorityClassName`, `terminationGracePeriodSeconds`, `imagePullSecrets`, and
    /// `env` (plain values) and `resources` of one container. Anything else is refused with reason `PodTemplateRefused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// The indexer.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexerSpec {
    /// What every role has.
    #[serde(flatten)]
    pub role: RoleSpec,
}

/// The search service.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.auth.type != 'None' || self.service.type == 'ClusterIP'")
        .message("a Service that is reachable from outside of the cluster needs auth: set auth.type to Token, or service.type to ClusterIP")
        .field_path(".auth")
)]
pub struct SearchSpec {
    /// How many search pods run; 0 turns search off. `kubectl scale wal NAME --replicas N` and a HorizontalPodAutoscaler set
    /// it, too. Two or more get a PodDisruptionBudget.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// What every role has.
    #[serde(flatten)]
    pub role: RoleSpec,
    /// Who may search. It is all or nothing: who may search sees the whole log.
    #[serde(default)]
    pub auth: SearchAuth,
    /// The Service `<name>-search`, port 80.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Further peers that the NetworkPolicy admits: `podSelector`, `namespaceSelector` or `ipBlock`, as in a
    /// NetworkPolicy. Pods of the WAL's own namespace and the operator are always admitted. With `auth.type: Token` new peers are
    /// admitted when every search pod asks for the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "peers")]
    pub allow_from: Vec<NetworkPolicyPeer>,
    /// Which web pages may read answers. Left out: those of any origin with `auth.type: Token`, which a page has to send; else those
    /// of search itself only. A change rolls the search pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsSpec>,
}

impl Default for SearchSpec {
    fn default() -> Self {
        Self {
            replicas: one(),
            role: RoleSpec::default(),
            auth: SearchAuth::default(),
            service: ServiceSpec::default(),
            allow_from: Vec::new(),
            cors: None,
        }
    }
}

/// Who may search.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'Token') == has(self.secretRef)")
        .message("type Token needs secretRef, and no other type takes one")
        .field_path(".secretRef")
)]
pub struct SearchAuth {
    /// `None`: everybody who reaches the Service; only with a Service of type `ClusterIP`. `Token`: who sends
    /// `Authorization: Bearer <token>`, or HTTP Basic with any user and the token as password.
    #[serde(default)]
    pub r#type: AuthType,
    /// The Secret whose key `token` holds the token, for type `Token`. While it is missing every query is refused. A new
    /// token is read without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// Kinds of authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum AuthType {
    /// No token is needed.
    #[default]
    None,
    /// One token for everybody.
    Token,
}

/// The Service of search.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Type of the Service. `NodePort` and `LoadBalancer` need `auth.type: Token`, and take effect when every search pod asks
    /// for the token.
    #[serde(default)]
    pub r#type: ServiceType,
    /// Annotations of the Service, such as those that load balancers read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// An origin as browsers send it: lower case, without a path. What a browser leaves out, such as a default port, is refused by a rule.
const ORIGIN: &str = r"^https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$";

/// Cross-origin resource sharing (CORS).
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.allowOrigins.all(origin, !origin.matches('^(http://.*:80|https://.*:443)$'))")
        .message("an origin has no port that is its scheme's default: browsers leave it out")
        .field_path(".allowOrigins")
)]
pub struct CorsSpec {
    /// Origins whose pages may read answers in a browser, as `https://portal.example.org`: a scheme, a host, and a port other than the
    /// default one. Pages of other origins may not.
    #[schemars(length(min = 1, max = 32), inner(length(max = 300), regex(pattern = ORIGIN)), extend("x-kubernetes-list-type" = "set"))]
    pub allow_origins: Vec<String>,
}

/// Types of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIP,
    /// On a port of every node.
    NodePort,
    /// Through a load balancer of the cloud.
    LoadBalancer,
}

impl ServiceType {
    /// As a Service's `spec.type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Compaction.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactionSpec {
    /// Whether small segments are compacted into larger ones. Without it queries grow slower with every publish.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Default for CompactionSpec {
    fn default() -> Self {
        Self { enabled: yes() }
    }
}

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}
