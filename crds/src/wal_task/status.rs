//! How far a task is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    schema::{conditions, optional_time},
    task_result::TaskFigures,
};

/// How far a task is. `Succeeded`, `Failed` and `Rejected` are final: nothing of the status changes afterwards.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalTaskStatus {
    /// `metadata.generation` of the task that the operator has seen; -1 before it has seen any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WalTaskState>,
    /// What was done; or what it waits for; or the fact, the effect and the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `Complete`: the task did what it was asked to do. `Failed`: it did not, and will not. Both are `False` until it ends. For tools
    /// that follow kstatus there is `Reconciling` until it ends, and `Stalled` where it failed.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Jobs that were started for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// The Job of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_name: Option<String>,
    /// UID of the WAL that it was started for: it is never run on another one of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_uid: Option<String>,
    /// `metadata.generation` of the WAL that the last attempt was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_generation: Option<i64>,
    /// Image that the last attempt runs: the one of the WAL's writer, so that it writes what the WAL's pods can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why the last attempt that failed did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_class: Option<TaskFailureClass>,
    /// When its first Job was made, by the API server's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub completion_time: Option<Time>,
    /// Seconds from `startTime` to `completionTime`: all attempts, with the waits between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<i64>,
    /// What its last Job made, read and removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TaskFigures>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
pub enum WalTaskState {
    /// It waits: for another task, for an upgrade, for its next attempt.
    Pending,
    /// Its Job exists.
    Running,
    /// It did what it was asked to do.
    Succeeded,
    /// It was tried, and did not.
    Failed,
    /// It was not tried: it cannot run.
    Rejected,
}

impl WalTaskState {
    /// Whether it is final.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Rejected)
    }

    /// As `status.state` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Rejected => "Rejected",
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
pub enum TaskFailureClass {
    /// It was not through in time.
    Deadline,
    /// Its node removed the pod, or was lost.
    Evicted,
    /// Its pod had to make place for a more important one.
    Preempted,
    /// No node took its pod in time.
    Unschedulable,
    /// Its image could not be pulled in time.
    ImageNotFound,
    /// The program or the cluster refused: something has to change first.
    Refused,
    /// The program failed, and said why; another attempt may succeed.
    Failed,
    /// The program ended without a result.
    Crashed,
}
