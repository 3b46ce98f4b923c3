//! What is true of a WAL, from what was observed: pure, so that every case is a line of a table.
//!
//! A message states the fact, its effect and the remedy, and holds no number that moves: a condition that says the same thing
//! in other words every few seconds would be written every few seconds.

mod applied;
mod indexing;
mod inputs;
mod progress;
mod protection;
mod ready;
mod search;
pub(crate) mod snapshot_current;
mod storage;
mod unreadable;
pub(crate) mod verified;

#[cfg(test)]
mod tests;

use tidemark_crds::{ConditionType, condition};

use self::ready::ready;
pub(crate) use self::{
    inputs::ConditionInputs,
    protection::{ProtectionInputs, ProtectionState},
    unreadable::evaluate_unreadable,
};
use crate::condition_value::ConditionValue;

/// The conditions of a WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalConditions {
    pub(crate) ready: ConditionValue,
    pub(crate) applied: ConditionValue,
    pub(crate) storage: ConditionValue,
    pub(crate) indexing: ConditionValue,
    pub(crate) search: ConditionValue,
    pub(crate) snapshot_current: ConditionValue,
    pub(crate) verified: ConditionValue,
    /// The one of `Reconciling` and `Stalled` that holds, if one does.
    pub(crate) progress: Option<(ConditionType, ConditionValue)>,
}

/// The conditions that follow from what was observed.
pub(crate) fn evaluate(inputs: &ConditionInputs<'_>) -> WalConditions {
    let (storage, indexing, search) = (storage::evaluate(inputs), indexing::evaluate(inputs), search::evaluate(inputs));
    let ready = ready(inputs, &storage, &indexing, &search);
    let applied = applied::evaluate(inputs);
    let before = |kind| condition(inputs.before, kind);
    let protection = &inputs.protection;
    let snapshot_current = protection.evaluate(before(ConditionType::SnapshotCurrent), snapshot_current::evaluate);
    let verified = protection.evaluate(before(ConditionType::Verified), verified::evaluate);
    let progress = progress::evaluate(&applied);
    WalConditions { ready, applied, storage, indexing, search, snapshot_current, verified, progress }
}
