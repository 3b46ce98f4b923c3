//! What keeps a log small and its history safe: the archive, snapshots, cleanup, verification, and the pods of their jobs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{places::URL, roles::RoleSpec};
use crate::{byte_size::ByteSize, schema::annotations, storage::StorageSpec, time_span::TimeSpan};

/// Five fields of a cron schedule, or nothing. What they mean is read by the operator, which says `ScheduleInvalid`.
const CRON: &str = "^([0-9A-Za-z*/,-]+( [0-9A-Za-z*/,-]+){4})?$";
/// A name of the time zone database.
const TIME_ZONE: &str = "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$";

/// The pods of jobs, which run the tasks of the WAL.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobsSpec {
    /// What every role has. The ServiceAccount is `<name>-jobs`; tasks of type Cleanup run as `<name>-cleanup`.
    #[serde(flatten)]
    pub role: RoleSpec,
}

/// The archive: the entries of the log with their outcomes, as an Apache Iceberg table below the index.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveSpec {
    /// Whether snapshots write to the archive. Without it nothing may be deleted from the log.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// When snapshots are taken, and how many stay. One is taken when the schedule or any of the bounds asks for it, and something has
/// changed since the last one.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.afterAge) <= duration('8784h')")
        .message("afterAge is at most 8784h (366 days)")
        .field_path(".afterAge")
)]
pub struct SnapshotsSpec {
    /// Cron schedule: minute, hour, day of the month, month, day of the week. Empty takes snapshots by the bounds only. Of times that
    /// were missed, one is made up for.
    #[serde(default = "at_three")]
    #[schemars(length(max = 100), regex(pattern = CRON))]
    pub schedule: String,
    /// Time zone of the schedule: a name of the time zone database, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = TIME_ZONE))]
    pub time_zone: String,
    /// A snapshot is due when the index has so many entries more than in the last one; 0 never.
    #[serde(default = "million")]
    #[schemars(range(min = 0))]
    pub after_entries: i64,
    /// A snapshot is due when so many bytes were indexed since the last one; `0` never.
    #[serde(default = "ten_gibibytes")]
    pub after_size: ByteSize,
    /// A snapshot is due when the last one is so old, up to `8784h`; `0s` never.
    #[serde(default = "day")]
    pub after_age: TimeSpan,
    /// How many verified snapshots stay. Older ones are released when a newer one is verified.
    #[serde(default = "seven")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_last: i32,
    /// A second bucket, also of another provider, to which each snapshot is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_to: Option<SnapshotCopySpec>,
}

/// Where snapshots are copied to.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotCopySpec {
    /// The bucket, or the prefix of one.
    #[schemars(length(max = 512), regex(pattern = URL))]
    pub url: String,
    /// Its store, in place of `spec.storage`. Only the pods of snapshots have its credentials; type `WorkloadIdentity` is what
    /// `jobs.serviceAccountAnnotations` ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// When and what is deleted from the log. Only entries go that a verified snapshot has in the archive, where each is read again before.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.minAge) >= duration('1s') && duration(self.minAge) <= duration('87840h')")
        .message("minAge is from 1s to 87840h (ten years)")
        .field_path(".minAge"),
    validation = Rule::new("!has(self.maxSize) || quantity(self.maxSize).compareTo(quantity('1Mi')) >= 0")
        .message("maxSize is at least 1Mi")
        .field_path(".maxSize")
)]
pub struct CleanupSpec {
    /// Whether the schedule deletes. A task of type Cleanup that a user makes deletes by the same rules in any case.
    #[serde(default)]
    pub enabled: bool,
    /// Cron schedule: minute, hour, day of the month, month, day of the week. Of times that were missed, one is made up for.
    #[serde(default = "at_four")]
    #[schemars(length(max = 100), regex(pattern = CRON))]
    pub schedule: String,
    /// Time zone of the schedule: a name of the time zone database, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = TIME_ZONE))]
    pub time_zone: String,
    /// Entries that are younger than this stay, from `1s` to `87840h`, by the store's clock.
    #[serde(default = "thirty_days")]
    pub min_age: TimeSpan,
    /// How many entries may stay in the log: of those that may go, only as many go, oldest first, as are too many. Left out, all go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_entries: Option<i64>,
    /// How many bytes of entries may stay in the log, from `1Mi`: as with `maxEntries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteSize>,
    /// Entries stay that so many of the newest verified snapshots do not hold.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_snapshots: i32,
    /// Annotations of the ServiceAccount `<name>-cleanup`, for workload identity: the only role that needs a right to delete from
    /// the log. Left out, those of `jobs`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub service_account_annotations: BTreeMap<String, String>,
}

/// When index and archive are verified.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifySpec {
    /// Cron schedule: minute, hour, day of the month, month, day of the week. Of times that were missed, one is made up for.
    #[serde(default = "sundays_at_five")]
    #[schemars(length(max = 100), regex(pattern = CRON))]
    pub schedule: String,
    /// Time zone of the schedule: a name of the time zone database, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = TIME_ZONE))]
    pub time_zone: String,
    /// Whether the newest snapshot, once there is one, is restored to a place of its own, compared and removed.
    #[serde(default)]
    pub drill: bool,
}

/// When the objects of the index are deleted that nothing names any more.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcSpec {
    /// Cron schedule: minute, hour, day of the month, month, day of the week. Of times that were missed, one is made up for.
    #[serde(default = "saturdays_at_two")]
    #[schemars(length(max = 100), regex(pattern = CRON))]
    pub schedule: String,
    /// Time zone of the schedule: a name of the time zone database, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = TIME_ZONE))]
    pub time_zone: String,
}

impl Default for ArchiveSpec {
    fn default() -> Self {
        Self { enabled: yes() }
    }
}

impl Default for CleanupSpec {
    fn default() -> Self {
        Self {
            enabled: false,
            schedule: at_four(),
            time_zone: utc(),
            min_age: thirty_days(),
            max_entries: None,
            max_size: None,
            keep_snapshots: three(),
            service_account_annotations: BTreeMap::new(),
        }
    }
}

fn yes() -> bool {
    true
}

fn at_three() -> String {
    "0 3 * * *".to_owned()
}

fn at_four() -> String {
    "0 4 * * *".to_owned()
}

fn saturdays_at_two() -> String {
    "0 2 * * 6".to_owned()
}

fn sundays_at_five() -> String {
    "0 5 * * 0".to_owned()
}

fn utc() -> String {
    "Etc/UTC".to_owned()
}

fn million() -> i64 {
    1_000_000
}

fn ten_gibibytes() -> ByteSize {
    ByteSize::new("10Gi")
}

fn day() -> TimeSpan {
    TimeSpan::new("24h")
}

fn thirty_days() -> TimeSpan {
    TimeSpan::new("720h")
}

fn three() -> i32 {
    3
}

fn seven() -> i32 {
    7
}
