//! The spec of a `WALSink`, with the rules that the API server checks.

#![allow(clippy::struct_field_names, reason = "each field of a batch is a maximum, and the resource says so")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::WalSinkStatus;
use crate::{
    byte_size::ByteSize,
    schema::optional_time,
    storage::{CaReference, SecretReference},
    time_span::TimeSpan,
    wal::RoleSpec,
    wal_task::{SNAPSHOT_NAME_PATTERN, WalReference},
};

/// A URL of a destination: no user, no password and no fragment, which would be logged or are never sent.
const DESTINATION_URL: &str = r"^https?://[A-Za-z0-9.\[\]:_-]+([/?][^\s#]*)?$";
/// The same of a receiver that is connected to.
const RECEIVER_URL: &str = r"^wss?://[A-Za-z0-9.\[\]:_-]+([/?][^\s#]*)?$";
/// The name of an index of a search server.
const BULK_INDEX: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/// Where the changes of a WAL's index go, and how. Every record is delivered at least once, in the order of publication.
#[derive(Clone, Debug, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "WALSink",
    root = "WalSink",
    plural = "walsinks",
    singular = "walsink",
    shortname = "ws",
    namespaced,
    category = "tidemark",
    status = "WalSinkStatus",
    derive = "PartialEq",
    doc = "Delivers the changes of a WAL's index to a search server, a webhook or a WebSocket, and keeps in the index how far it is.",
    selectable = ".spec.walRef.name",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether what is published is delivered."
    ),
    printcolumn(name = "WAL", type_ = "string", json_path = ".spec.walRef.name", description = "Whose changes."),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", description = "The kind of the destination."),
    printcolumn(
        name = "Acknowledged",
        type_ = "integer",
        json_path = ".status.acknowledged.seq",
        description = "Every record up to this one is delivered, dead-lettered or left out by the filter."
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lagOperations",
        description = "Records that are published and not acknowledged."
    ),
    printcolumn(
        name = "Breaker",
        type_ = "string",
        json_path = ".status.breaker",
        description = "What is sent: everything (Closed), one batch (HalfOpen), nothing for a while (Open)."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Dead-Letters",
        type_ = "integer",
        json_path = ".status.deadLettered",
        description = "Records that the destination will never take and that were put aside.",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready, or is not.",
        priority = 1
    ),
    printcolumn(
        name = "Last-Error",
        type_ = "string",
        json_path = ".status.lastError",
        description = "The last failure of the destination, until something is delivered after it.",
        priority = 1
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("the name has at most 40 lower-case letters, digits and dashes, starts with a letter and ends with a letter or digit: the names of its consumer and its children are made from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.walRef == oldSelf.walRef")
        .message("walRef cannot change: the position is one in the changes of this WAL; make another sink")
        .field_path(".walRef"),
    validation = Rule::new("self.type == oldSelf.type")
        .message("type cannot change: another destination begins from the start; make another sink")
        .field_path(".type"),
    validation = Rule::new("self.start == oldSelf.start")
        .message("start cannot change: a sink that has begun goes on where it is; make another sink")
        .field_path(".start"),
    validation = Rule::new("!has(self.elasticsearch) || !has(oldSelf.elasticsearch) || self.elasticsearch.index == oldSelf.elasticsearch.index")
        .message("elasticsearch.index cannot change: what was delivered before would not be in another index; make another sink")
        .field_path(".elasticsearch.index"),
    validation = Rule::new("(self.type == 'Elasticsearch') == has(self.elasticsearch)")
        .message("type Elasticsearch needs elasticsearch, and no other type takes it")
        .field_path(".elasticsearch"),
    validation = Rule::new("(self.type == 'Webhook') == has(self.webhook)")
        .message("type Webhook needs webhook, and no other type takes it")
        .field_path(".webhook"),
    validation = Rule::new("(self.type == 'WebSocket') == has(self.webSocket)")
        .message("type WebSocket needs webSocket, and no other type takes it")
        .field_path(".webSocket")
)]
pub struct WalSinkSpec {
    /// The WAL whose changes are delivered, in the namespace of the sink. It cannot change.
    pub wal_ref: WalReference,
    /// The kind of the destination. It cannot change.
    pub r#type: SinkType,
    /// The destination, for type `Elasticsearch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elasticsearch: Option<BulkDestination>,
    /// The destination, for type `Webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookDestination>,
    /// The destination, for type `WebSocket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_socket: Option<WebSocketDestination>,
    /// Where it begins: before the first record unless one of these says otherwise. It cannot change. A sink that is deleted and made again
    /// begins again.
    #[serde(default)]
    pub start: SinkStart,
    /// Only records that this query finds, in the language of the search; all if it is empty. A change counts from the next record on.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub filter: String,
    /// When a batch is sent.
    #[serde(default)]
    pub batch: SinkBatch,
    /// What may be read and not acknowledged.
    #[serde(default)]
    pub max_unacknowledged: SinkWindow,
    /// What becomes of a record that the destination will never take.
    #[serde(default)]
    pub on_rejected: RejectedAction,
    /// When the destination is left alone for a while.
    #[serde(default)]
    pub breaker: SinkBreaker,
    /// Whether the delivery is stopped. It goes on where it was: nothing is lost meanwhile, however long that is.
    #[serde(default)]
    pub suspend: bool,
    /// Resources, disk, ServiceAccount (`<name>-sink`) and pod template. The account needs the right to read the index, and to write below
    /// `consumers/` in it.
    #[serde(flatten)]
    pub role: RoleSpec,
}

/// Kinds of destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum SinkType {
    /// The bulk API of Elasticsearch, `OpenSearch` or Quickwit: a document an operation, which a correction replaces.
    Elasticsearch,
    /// An HTTP webhook, which gets batches of `CloudEvents` 1.0.
    Webhook,
    /// A receiver that speaks `tidemark.sink.v1` over a `WebSocket`: it says how many changes it takes, and acknowledges them.
    WebSocket,
}

/// A server with a bulk API.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.url.startsWith('http://') || self.allowHTTP")
        .message("plain http sends the data and the credentials in clear: use https, or set allowHTTP: true")
        .field_path(".url")
)]
pub struct BulkDestination {
    /// Address of the server, such as `https://os:9200`. A change rolls the pod, and the delivery goes on there from the same position.
    #[schemars(length(max = 2048), regex(pattern = DESTINATION_URL))]
    pub url: String,
    /// Name of the index there. It cannot change.
    #[schemars(length(min = 1, max = 255), regex(pattern = BULK_INDEX))]
    pub index: String,
    /// The Secret whose key `authorization` holds the value of the header `Authorization`, such as `ApiKey …` or `Basic …`. A new value is
    /// read without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// ConfigMap of the same namespace whose key `ca.crt` holds the certificates (PEM) to trust for the server, in place of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaReference>,
    /// Whether a server without encryption may be used.
    #[serde(default, rename = "allowHTTP")]
    pub allow_http: bool,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.url.startsWith('http://') || self.allowHTTP")
        .message("plain http sends the data and the credentials in clear: use https, or set allowHTTP: true")
        .field_path(".url")
)]
pub struct WebhookDestination {
    /// Where batches are posted to. A change rolls the pod, and the delivery goes on there from the same position.
    #[schemars(length(max = 2048), regex(pattern = DESTINATION_URL))]
    pub url: String,
    /// The Secret whose key `authorization` holds the value of the header `Authorization`. A new value is read without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// The Secret whose key `secret` signs each request: header `Tidemark-Signature`, HMAC-SHA256. A new value is read without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret_ref: Option<SecretReference>,
    /// ConfigMap of the same namespace whose key `ca.crt` holds the certificates (PEM) to trust for the webhook, in place of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaReference>,
    /// Whether a webhook without encryption may be used.
    #[serde(default, rename = "allowHTTP")]
    pub allow_http: bool,
}

/// A receiver that the sink connects to.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.url.startsWith('ws://') || self.allowHTTP")
        .message("plain ws sends the data and the credentials in clear: use wss, or set allowHTTP: true")
        .field_path(".url")
)]
pub struct WebSocketDestination {
    /// Where the sink connects to, such as `wss://example.org/changes`. A change rolls the pod, and the delivery goes on there from the same
    /// position.
    #[schemars(length(max = 2048), regex(pattern = RECEIVER_URL))]
    pub url: String,
    /// The Secret whose key `authorization` holds the value of the header `Authorization`. A new value is read for the next connection, without
    /// a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// ConfigMap of the same namespace whose key `ca.crt` holds the certificates (PEM) to trust for the receiver, in place of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaReference>,
    /// Whether a receiver without encryption may be used.
    #[serde(default, rename = "allowHTTP")]
    pub allow_http: bool,
}

/// Where a sink begins: at most one of these; before the first record without any.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.latest), has(self.token), has(self.time), has(self.snapshot)].filter(x, x).size() <= 1")
        .message("start has at most one of latest, token, time and snapshot"),
    validation = Rule::new("!has(self.latest) || self.latest")
        .message("latest is true, or left out")
        .field_path(".latest")
)]
pub struct SinkStart {
    /// After all that is published when the sink runs first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// Before the first record of an entry whose token is not smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 27, max = 27), regex(pattern = "^[0-9A-Za-z]{27}$"))]
    pub token: Option<String>,
    /// Before the first record of an entry that is not older, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub time: Option<Time>,
    /// After the records of the snapshot of this name: for a destination that was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = SNAPSHOT_NAME_PATTERN))]
    pub snapshot: Option<String>,
}

/// When a batch is sent: when it is full, or old enough.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.maxSize).compareTo(quantity('1')) >= 0 && quantity(self.maxSize).compareTo(quantity('1Gi')) <= 0")
        .message("maxSize is from 1 to 1Gi")
        .field_path(".maxSize"),
    validation = Rule::new("duration(self.maxDelay) <= duration('1m')")
        .message("maxDelay is at most 1m")
        .field_path(".maxDelay")
)]
pub struct SinkBatch {
    /// The most records of a batch.
    #[serde(default = "five_hundred")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_operations: i32,
    /// The most bytes of a batch: bytes, or a number with `Ki`, `Mi` or `Gi`. A larger record is a batch by itself.
    #[serde(default = "five_mebibytes")]
    pub max_size: ByteSize,
    /// How long the first record of a batch waits for others, up to `1m`.
    #[serde(default = "second")]
    pub max_delay: TimeSpan,
}

impl Default for SinkBatch {
    fn default() -> Self {
        Self { max_operations: five_hundred(), max_size: five_mebibytes(), max_delay: second() }
    }
}

/// What may be read and not acknowledged. Nothing more is read until the destination has answered.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.size).compareTo(quantity('1')) >= 0 && quantity(self.size).compareTo(quantity('1Gi')) <= 0")
        .message("size is from 1 to 1Gi")
        .field_path(".size")
)]
pub struct SinkWindow {
    /// The most records.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub operations: i32,
    /// The most bytes of them. They are in the memory of the pod. A larger record is on its way alone.
    #[serde(default = "sixty_four_mebibytes")]
    pub size: ByteSize,
}

impl Default for SinkWindow {
    fn default() -> Self {
        Self { operations: ten_thousand(), size: sixty_four_mebibytes() }
    }
}

/// What becomes of a record that the destination will never take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum RejectedAction {
    /// It is put aside, below the consumer's folder in the index, and the next one follows. After 100 in a row the next one blocks.
    #[default]
    DeadLetter,
    /// It is tried again and again, and nothing after it is delivered.
    Block,
}

/// After some failures in a row nothing is sent or read for a while; then one batch is tried, whose answer decides.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.openFor) >= duration('1s') && duration(self.openFor) <= duration('1h')")
        .message("openFor is from 1s to 1h")
        .field_path(".openFor")
)]
pub struct SinkBreaker {
    /// How many failures.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 1000))]
    pub failures: i32,
    /// For how long, from `1s` to `1h`.
    #[serde(default = "half_a_minute")]
    pub open_for: TimeSpan,
}

impl Default for SinkBreaker {
    fn default() -> Self {
        Self { failures: five(), open_for: half_a_minute() }
    }
}

fn five_hundred() -> i32 {
    500
}

fn five_mebibytes() -> ByteSize {
    ByteSize::new("5Mi")
}

fn second() -> TimeSpan {
    TimeSpan::new("1s")
}

fn ten_thousand() -> i32 {
    10_000
}

fn sixty_four_mebibytes() -> ByteSize {
    ByteSize::new("64Mi")
}

fn five() -> i32 {
    5
}

fn half_a_minute() -> TimeSpan {
    TimeSpan::new("30s")
}
