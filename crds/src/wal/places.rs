//! The places of a WAL: log, metadata and index, and what that is begun with.

use std::ops::Not;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{byte_size::ByteSize, schema::optional_time, storage::StorageSpec, time_span::TimeSpan};

/// What a URL may look like: no slash at the end, none doubled, no segment that starts with a dot, no percent-encoding, so
/// that two different texts name two different places.
pub(super) const URL: &str =
    r"^(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[A-Za-z0-9_!@+=:~'()*-][A-Za-z0-9._!@+=:~'()*-]*)*$";

/// The log.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.expiry) >= duration('1s') && duration(self.expiry) <= duration('168h')")
        .message("expiry is from 1s to 168h, the longest that a signed URL lives")
        .field_path(".expiry"),
    validation = Rule::new("duration(self.signerClockLead) <= duration('1h')")
        .message("signerClockLead is at most 1h")
        .field_path(".signerClockLead"),
    validation = Rule::new("duration(self.requestTimeout) <= duration('1h')")
        .message("requestTimeout is at most 1h")
        .field_path(".requestTimeout"),
    validation = Rule::new("duration(self.visibilityDelay) <= duration('1h')")
        .message("visibilityDelay is at most 1h")
        .field_path(".visibilityDelay"),
    validation = Rule::new("duration(self.auditWindow) <= duration('8784h')")
        .message("auditWindow is at most 8784h (366 days)")
        .field_path(".auditWindow"),
    validation = Rule::new("quantity(self.maxEntrySize).compareTo(quantity('1Ki')) >= 0 && quantity(self.maxEntrySize).compareTo(quantity('64Mi')) <= 0")
        .message("maxEntrySize is from 1Ki to 64Mi")
        .field_path(".maxEntrySize"),
    validation = Rule::new("quantity(self.maxDescriptorSize).compareTo(quantity('1Ki')) >= 0 && quantity(self.maxDescriptorSize).compareTo(quantity('256Mi')) <= 0")
        .message("maxDescriptorSize is from 1Ki to 256Mi")
        .field_path(".maxDescriptorSize"),
    validation = Rule::new("duration(self.clockTolerance) <= duration('1m')")
        .message("clockTolerance is at most 1m")
        .field_path(".clockTolerance"),
    validation = Rule::new("!has(self.idempotencyRetention) || duration(self.idempotencyRetention) >= duration(self.expiry) + duration(self.signerClockLead) + duration(self.requestTimeout) + duration('1s') && duration(self.idempotencyRetention) <= duration('87840h')")
        .message("idempotencyRetention is at least expiry + signerClockLead + requestTimeout + 1s, so that an update and its retry count once, and at most 87840h")
        .field_path(".idempotencyRetention")
)]
pub struct LogPlace {
    /// The bucket, or the prefix of one, that holds one object an entry: `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `az://container/prefix`. It cannot change.
    #[schemars(length(max = 512), regex(pattern = URL))]
    pub url: String,
    /// How long after its entry an update may still be completed through its signed URL, from `1s` to `168h`: what the
    /// log's writers use. An index is this much (and `requestTimeout` and `visibilityDelay`) behind the log, and what is newer
    /// is searched from memory. It is required: a wrong value would miss updates without a word. It is recorded in the log
    /// by the first indexer; a later difference is reported as `ParametersDiffer` while indexing goes on with the recorded value,
    /// since a change must be dated (`tidemark log set`).
    pub expiry: TimeSpan,
    /// How far the clock that dates signed URLs may lead the store's, up to `1h`. Zero when the URLs are dated from the
    /// store's time, as Tidemark's writers do. Recorded like `expiry`.
    #[serde(default = "zero")]
    pub signer_clock_lead: TimeSpan,
    /// The longest request, from the check of its signature to the object's store time, up to `1h`. Recorded like `expiry`.
    #[serde(default = "minute")]
    pub request_timeout: TimeSpan,
    /// The longest delay from an object's store time to its being visible, plus the spread of the store's clocks, up to
    /// `1h`. Recorded like `expiry`.
    #[serde(default = "ten_seconds")]
    pub visibility_delay: TimeSpan,
    /// The largest entry, from `1Ki` to `64Mi`: bytes, or a number with `Ki` or `Mi`. Tidemark's writers refuse a larger one,
    /// and one by another writer counts as malformed. Recorded like `expiry`.
    #[serde(default = "mebibyte")]
    pub max_entry_size: ByteSize,
    /// The largest descriptor, from `1Ki` to `256Mi`. Tidemark's writers refuse a larger one, and one by another writer
    /// completes its update without being read. Recorded like `expiry`.
    #[serde(default = "sixteen_mebibytes")]
    pub max_descriptor_size: ByteSize,
    /// How far the clocks of the stores may differ, up to `1m`, where the times of an entry and of its descriptors are
    /// compared. Recorded like `expiry`.
    #[serde(default = "second")]
    pub clock_tolerance: TimeSpan,
    /// How long an aborted update is looked at again for descriptors that arrived late, up to `8784h`. Recorded like
    /// `expiry`.
    #[serde(default = "day")]
    pub audit_window: TimeSpan,
    /// How long a committed update makes a later one of the same writer with the same idempotency key a duplicate: at least `expiry` +
    /// `signerClockLead` + `requestTimeout` + `1s`, up to `87840h`. As long as the index lives if it is left out. Recorded like `expiry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_retention: Option<TimeSpan>,
    /// The URL at which this log was before it was moved, as the condition with reason `LogMoved` names it: the index claims that
    /// place, which distinguishes a copy of a log from the log. Set it only once nothing writes to the old place any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub moved_from: Option<String>,
    /// The store of the log, in place of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// Where descriptors are.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataPlace {
    /// One to eight buckets, or prefixes of them: Datamon's `metadata`, `config` (contexts) and `vmetadata`, in this order. The
    /// first one gets descriptors, the last one holds labels; all are searched. They cannot change.
    #[schemars(length(min = 1, max = 8), inner(length(max = 512), regex(pattern = URL)))]
    pub urls: Vec<String>,
    /// The store of the metadata, in place of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// Where the index is.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexPlace {
    /// The bucket, or the prefix of one, that holds the index. One WAL owns it: another one gets `OwnedByAnother`. It cannot
    /// change.
    #[schemars(length(max = 512), regex(pattern = URL))]
    pub url: String,
    /// Whether queries find bundles by the names of their files, with `file:` and `files:`: bundles that are sealed from then on.
    /// It costs one GET more for each list of a bundle's files, and room for the names.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub files: bool,
    /// The store of the index, in place of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// What an index is begun with that holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// The bucket, or the prefix of one, with verified snapshots and the archive of this log: the `index.url` of another WAL of the
    /// log, or what `snapshots.copyTo` has filled. It is only read, with the store and the credentials of the index.
    #[serde(rename = "fromURL")]
    #[schemars(length(max = 512), regex(pattern = URL))]
    pub from_url: String,
    /// The index stays as it was at this second, by the store's clock, until a task of type `Promote`. Left out, it is begun with all that is
    /// recorded there, and goes on with the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub time: Option<Time>,
}

fn zero() -> TimeSpan {
    TimeSpan::new("0s")
}

fn minute() -> TimeSpan {
    TimeSpan::new("60s")
}

fn second() -> TimeSpan {
    TimeSpan::new("1s")
}

fn ten_seconds() -> TimeSpan {
    TimeSpan::new("10s")
}

fn day() -> TimeSpan {
    TimeSpan::new("24h")
}

fn mebibyte() -> ByteSize {
    ByteSize::new("1Mi")
}

fn sixteen_mebibytes() -> ByteSize {
    ByteSize::new("16Mi")
}
