//! How far a sink is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    schema::{conditions, optional_time},
    sink_report::BreakerPhase,
};

/// How far a sink is. The figures are those that its pod reported last; they are written once a minute at most.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalSinkStatus {
    /// `metadata.generation` of the sink that the operator has seen; -1 before it has seen any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: what is published is delivered, or the sink is suspended. `Applied`: the pod is made of the present spec. `Delivering`: the
    /// destination takes what it is sent. For tools that follow kstatus there is `Reconciling` or `Stalled` while `Applied` does not hold.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The consumer in the index, which keeps how far the sink is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Every record up to it was delivered, dead-lettered or left out by the filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<SinkPosition>,
    /// Records that are published and not acknowledged, those included that the filter leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_operations: Option<i64>,
    /// How many seconds the oldest of them has been published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// Records that were read and are not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unacknowledged: Option<i64>,
    /// Bytes that they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unacknowledged_bytes: Option<i64>,
    /// Records that were delivered since the sink was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<i64>,
    /// Records that the destination will never take and that were put aside since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_lettered: Option<i64>,
    /// What the breaker lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<SinkBreakerState>,
    /// The last failure of the destination; left out once something was delivered after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Name of the pod that the figures are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Image that the pod runs: the one of the WAL's writer, so that it reads what that one writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the figures were read, by the operator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time")]
    pub observed_time: Option<Time>,
}

/// A place in the changes of an index.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct SinkPosition {
    /// The generation, such as `g1`.
    pub generation: String,
    /// The seq of the last record before the place; 0 before the first one.
    pub seq: i64,
}

/// What the breaker of a sink lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum SinkBreakerState {
    /// Everything.
    Closed,
    /// One batch, whose answer decides.
    HalfOpen,
    /// Nothing, for a while.
    Open,
}

impl From<BreakerPhase> for SinkBreakerState {
    fn from(phase: BreakerPhase) -> Self {
        match phase {
            BreakerPhase::Closed => Self::Closed,
            BreakerPhase::HalfOpen => Self::HalfOpen,
            BreakerPhase::Open => Self::Open,
        }
    }
}
