//! The spec of a `WALTask`, with the rules that the API server checks.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{status::WalTaskStatus, task_type::TaskType};
use crate::{names, schema::optional_time, time_span::TimeSpan};

/// The name of a snapshot: it stands in the names of objects.
pub(crate) const SNAPSHOT_NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";

/// What is done to which WAL. It cannot change: another wish is another task.
#[derive(Clone, Debug, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "WALTask",
    root = "WalTask",
    plural = "waltasks",
    singular = "waltask",
    shortname = "wt",
    namespaced,
    category = "tidemark",
    status = "WalTaskStatus",
    derive = "PartialEq",
    doc = "Something that is done once to a WAL's index, archive or log: a snapshot, a cleanup, a restore and the like.",
    selectable = ".spec.walRef.name",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", description = "What is done."),
    printcolumn(name = "WAL", type_ = "string", json_path = ".spec.walRef.name", description = "To which WAL."),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "How far it is."),
    printcolumn(
        name = "Attempts",
        type_ = "integer",
        json_path = ".status.attempts",
        description = "Jobs that were started for it."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "What was done; or what it waits for, or why it failed."
    ),
    printcolumn(
        name = "Finished",
        type_ = "date",
        json_path = ".status.completionTime",
        description = "When it ended.",
        priority = 1
    ),
    printcolumn(
        name = "Job",
        type_ = "string",
        json_path = ".status.jobName",
        description = "The Job of the last attempt.",
        priority = 1
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,57}[a-z0-9])?$')")
        .message("the name has at most 59 lower-case letters, digits and dashes, and starts and ends with a letter or digit: the names of its Jobs are made from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("the spec of a task cannot change; make another task"),
    validation = Rule::new("(self.type == 'Restore') == has(self.restore)")
        .message("type Restore needs restore, and no other type takes it")
        .field_path(".restore"),
    validation = Rule::new("!has(self.snapshot) || self.type == 'Snapshot'")
        .message("only type Snapshot takes snapshot")
        .field_path(".snapshot"),
    validation = Rule::new("!has(self.cleanup) || self.type == 'Cleanup'")
        .message("only type Cleanup takes cleanup")
        .field_path(".cleanup"),
    validation = Rule::new("!has(self.verify) || self.type == 'Verify'")
        .message("only type Verify takes verify")
        .field_path(".verify"),
    validation = Rule::new("!has(self.promote) || self.type == 'Promote'")
        .message("only type Promote takes promote")
        .field_path(".promote"),
    validation = Rule::new("duration(self.deadline) >= duration('1s') && duration(self.deadline) <= duration('720h')")
        .message("deadline is from 1s to 720h (30 days)")
        .field_path(".deadline"),
    validation = Rule::new("duration(self.ttlAfterFinished) <= duration('8784h')")
        .message("ttlAfterFinished is at most 8784h (366 days)")
        .field_path(".ttlAfterFinished")
)]
pub struct WalTaskSpec {
    /// The WAL, in the namespace of the task.
    pub wal_ref: WalReference,
    /// What is done.
    pub r#type: TaskType,
    /// What to restore to, for type `Restore`: exactly one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreTarget>,
    /// More about the snapshot, for type `Snapshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotTask>,
    /// More about the cleanup, for type `Cleanup`. What is deleted is in the WAL's `cleanup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<CleanupTask>,
    /// More about the verification, for type `Verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyTask>,
    /// More about the promotion, for type `Promote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote: Option<PromoteTask>,
    /// How long it may take from the first attempt to the end of the last one, from `1s` to `720h`. What takes longer is stopped, and has
    /// failed. For as long it may wait for its first attempt.
    #[serde(default = "six_hours")]
    pub deadline: TimeSpan,
    /// How often it is tried. What refuses, because something has to change first, is not tried again.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 10))]
    pub max_attempts: i32,
    /// How long the task and its Jobs are kept after its end, up to `8784h`.
    #[serde(default = "week")]
    pub ttl_after_finished: TimeSpan,
}

impl WalTaskSpec {
    /// A task of the WAL `wal` with nothing but defaults.
    pub fn new(wal: &str, r#type: TaskType) -> Self {
        Self {
            wal_ref: WalReference { name: wal.to_owned() },
            r#type,
            restore: None,
            snapshot: None,
            cleanup: None,
            verify: None,
            promote: None,
            deadline: six_hours(),
            max_attempts: three(),
            ttl_after_finished: week(),
        }
    }
}

/// A WAL of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct WalReference {
    /// Its name.
    #[schemars(length(max = 40), regex(pattern = names::WAL_NAME_PATTERN))]
    pub name: String,
}

/// What to restore to: exactly one of these. It becomes a new generation of the index, which search switches to; the log is not changed.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.time), has(self.token), has(self.snapshot), has(self.latest)].exists_one(x, x)")
        .message("a restore has exactly one of time, token, snapshot and latest"),
    validation = Rule::new("!has(self.latest) || self.latest")
        .message("latest is true, or left out")
        .field_path(".latest")
)]
pub struct RestoreTarget {
    /// All operations whose entry is from this second or an earlier one, by the store's clock. A time that is to come is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub time: Option<Time>,
    /// The entry with this token, and all with smaller ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 27, max = 27), regex(pattern = "^[0-9A-Za-z]{27}$"))]
    pub token: Option<String>,
    /// All operations that the snapshot of this name holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = SNAPSHOT_NAME_PATTERN))]
    pub snapshot: Option<String>,
    /// As far as the index, its snapshots and its archive reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
}

/// More about a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct SnapshotTask {
    /// Its name; left out, one is made of the task's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = SNAPSHOT_NAME_PATTERN))]
    pub name: Option<String>,
}

/// More about a cleanup.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanupTask {
    /// Whether it only counts what it would delete.
    #[serde(default)]
    pub dry_run: bool,
}

/// More about a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct VerifyTask {
    /// Whether every outcome is decided again and compared; else those of a sample.
    #[serde(default)]
    pub all: bool,
    /// Whether the newest snapshot is restored to a place of its own, compared and removed.
    #[serde(default)]
    pub drill: bool,
}

/// As messages ask for one.
impl fmt::Display for VerifyTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.all, self.drill) {
            (false, false) => "a task of type Verify",
            (true, false) => "a task of type Verify with \"verify\": {\"all\": true}",
            (false, true) => "a task of type Verify with \"verify\": {\"drill\": true}",
            (true, true) => "a task of type Verify with \"verify\": {\"all\": true, \"drill\": true}",
        })
    }
}

/// More about a promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromoteTask {
    /// Whether the log decides again what was recorded and is lost: where an object is gone or damaged, and no snapshot and no archive has
    /// what it held. Else such a promotion is refused. An update whose descriptor was deleted since counts as aborted then.
    #[serde(default)]
    pub decide_again: bool,
}

fn six_hours() -> TimeSpan {
    TimeSpan::new("6h")
}

fn three() -> i32 {
    3
}

fn week() -> TimeSpan {
    TimeSpan::new("168h")
}
