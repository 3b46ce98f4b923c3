//! What the operator saw.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    schema::{conditions, optional_time, time},
    wal_task::VerifyTask,
};

/// What the operator saw. Figures are from the pods, written at most once a minute while nothing else changes.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalStatus {
    /// `metadata.generation` of the newest spec that the operator has seen; -1 before it has seen any. `Ready` has an `observedGeneration` of its own:
    /// `appliedGeneration`, or that of a spec which was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `metadata.generation` of the last spec that all pods were made of; left out until that has been so once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<i64>,
    /// `Ready`: the log is indexed and can be searched (or `suspend` is set and it can be searched). `Applied`: the
    /// pods are made of this spec (else `RollingOut`, `RollOutStalled`, `Held`, or why it cannot be applied). `StorageReady`: the
    /// buckets can be used and this WAL owns the index. `Indexing`: an indexer publishes. `SearchAvailable`: search answers;
    /// `False` with reason `NoReplicas` when it is turned off. `SnapshotCurrent`: the newest verified snapshot is as new as the schedule
    /// asks for. `Verified`: index and archive were found to be right as lately as the schedule asks for. `UpgradePending`: a newer release waits for
    /// approval (`NewRelease`), rolls out (`Upgrading`) or does not get on (`UpgradeStalled`). While `Applied` is not true, one
    /// of two more is there for tools that follow kstatus: `Stalled` if a user has to act first, else `Reconciling`.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How far the log is decided and published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<CursorStatus>,
    /// Whole seconds of the log below this are frozen, by the store's clock. The cursor follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub horizon: Option<Time>,
    /// Seconds from the oldest entry that is sealed and not published to the horizon; 0 when there is none. Left out while no
    /// indexer writes, as it is not known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// Entries that are sealed and not published. Left out while no indexer writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_entries: Option<i64>,
    /// Entries in the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<i64>,
    /// When the figures above were read from the pods, by the operator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub observed_time: Option<Time>,
    /// Number of the index's writer: a higher one fences every lower one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Name of the index's generation, such as `g1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Version of the writing indexer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The search service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchStatus>,
    /// The indexer. Left out while none answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexer: Option<IndexerStatus>,
    /// What the index can be restored to, as the last task that looked found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<RecoveryWindowStatus>,
    /// The newest snapshot that a task of this WAL has taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot: Option<SnapshotStatus>,
    /// The size of the log, as a task counted it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_size: Option<LogSizeStatus>,
    /// The last cleanup that was through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_cleanup: Option<CleanupStatus>,
    /// What the index was restored to by a task of this WAL. Left out unless it was, and once it is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoreStatus>,
    /// The last verification that was through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verification: Option<VerificationStatus>,
    /// Up to when the schedules are done with: what was due by then was asked for, or there was nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedules: Option<ScheduleStatus>,
}

/// Up to when each schedule is done with, by the operator's clock. Left out for one that the spec does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// That of snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub snapshot: Option<Time>,
    /// That of cleanups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub cleanup: Option<Time>,
    /// That of verifications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub verify: Option<Time>,
    /// That of collections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub gc: Option<Time>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Its name.
    pub name: String,
    /// When the task that took it ended, by the cluster's clock.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// Whether what it wrote was read again and was right.
    pub verified: bool,
    /// Entries in the index when it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<i64>,
    /// Bytes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
}

/// A cleanup of the log.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanupStatus {
    /// When the task ended, by the cluster's clock.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// Entries that it deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_entries: Option<i64>,
    /// Bytes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_bytes: Option<i64>,
}

/// The size of a log. Tasks of type Snapshot, Cleanup (of one that deletes, what it left) and Verify list the whole log, which takes a
/// request for each thousand entries; nothing counts it between them.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogSizeStatus {
    /// When the task ended that counted it, by the cluster's clock. What was written or deleted since is not in the figures.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// Entries, those of future times included, whatever became of them in the index.
    pub entries: i64,
    /// Bytes of them, without descriptors.
    pub bytes: i64,
}

/// The times that an index can be restored to, both included.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryWindowStatus {
    /// When the task ended that found it, by the cluster's clock.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// The earliest.
    #[schemars(schema_with = "time")]
    pub first: Time,
    /// The latest.
    #[schemars(schema_with = "time")]
    pub last: Time,
}

/// A restored index.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// When the task ended, by the cluster's clock.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// Name of the generation that it made, such as `g2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Every entry whose second lies before this one is in it; after a restore to a token also some of this second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub cursor: Option<Time>,
}

/// What verifications of index and archive found. Each time is the latest of its kind, so that it does not matter in which order the
/// operator sees tasks that ran at once.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationStatus {
    /// When the last task ended that was through, by the cluster's clock.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// Objects or records that were missing or damaged when damage was last found; 0 where none is known, or it was repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<i64>,
    /// What a verification has to look at, and find nothing, before that damage is taken for repaired: all, and a drill where
    /// one found it. It has to begin after the damage was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared_by: Option<VerifyTask>,
    /// When a snapshot was last restored to try it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub last_drill: Option<Time>,
    /// The damage that a verification without a drill found last, repaired or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<DamageStatus>,
    /// The damage that one with a drill found last, repaired or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_damage: Option<DamageStatus>,
    /// When the last verification began that looked at everything and found nothing: `damage` that was found before is repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub cleared_until: Option<Time>,
    /// When the last one of those began that had a drill: `drillDamage` that was found before is repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub drill_cleared_until: Option<Time>,
}

/// Damage of index or archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamageStatus {
    /// When the task that found it ended, by the cluster's clock.
    #[schemars(schema_with = "time")]
    pub time: Time,
    /// Objects or records that were missing or damaged.
    pub damaged: i64,
}

impl VerificationStatus {
    /// The damage that was found last and that no verification has found repaired since; `None` where no damage is known.
    pub fn open_damage(&self) -> Option<&DamageStatus> {
        self.open_index_damage().max(self.open_drill_damage())
    }

    /// Whether something is missing or damaged.
    pub fn is_damaged(&self) -> bool {
        self.open_damage().is_some()
    }

    /// What a verification has to look at, and find nothing, before the damage is taken for repaired; `None` where no damage is known.
    /// What a sample looks at is chance: the next one may look elsewhere.
    pub fn wanted_check(&self) -> Option<VerifyTask> {
        self.is_damaged().then(|| VerifyTask { all: true, drill: self.open_drill_damage().is_some() })
    }

    fn open_index_damage(&self) -> Option<&DamageStatus> {
        self.damage.as_ref().filter(|damage| damage.is_open(self.cleared_until.as_ref()))
    }

    fn open_drill_damage(&self) -> Option<&DamageStatus> {
        self.drill_damage.as_ref().filter(|damage| damage.is_open(self.drill_cleared_until.as_ref()))
    }
}

impl DamageStatus {
    /// Whether no look that found nothing has begun after it was found. One that began within the same second may have begun before.
    fn is_open(&self, cleared_until: Option<&Time>) -> bool {
        cleared_until.is_none_or(|cleared_until| self.time >= *cleared_until)
    }
}

/// How far a log is decided and published.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CursorStatus {
    /// Every entry whose second lies before this one is decided and indexed, by the store's clock: the watermark.
    #[schemars(schema_with = "time")]
    pub time: Time,
}

/// The search service.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchStatus {
    /// Search pods that exist; the scale subresource reads it.
    pub replicas: i32,
    /// Labels of the search pods; the scale subresource reads it.
    pub selector: String,
    /// Where to search from inside the cluster. Left out while search is turned off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The indexer.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexerStatus {
    /// Name of the pod that the figures are from.
    pub pod: String,
    /// What it does.
    pub role: IndexerRole,
}

/// What an indexer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum IndexerRole {
    /// It starts, or tries to open its storage.
    Starting,
    /// It waits until the writer is gone.
    Standby,
    /// It writes.
    Writer,
}
