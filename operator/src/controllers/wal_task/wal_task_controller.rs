//! What the controller of tasks holds.

use std::sync::Arc;

use kube::{core::DeserializeGuard, runtime::reflector::Store};
use tidemark_crds::{Wal, WalTask};

use crate::{
    condition_tally::ConditionTally, context::ReconcileContext, status_cache::StatusCache, upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

/// The controller of the tasks in one namespace, or in the whole cluster.
pub(crate) struct WalTaskController {
    pub(super) context: ReconcileContext,
    pub(super) statuses: StatusCache<WalTask>,
    pub(super) tally: ConditionTally,
    /// All tasks of its part of the cluster.
    pub(super) tasks: Store<DeserializeGuard<WalTask>>,
    /// All WALs of its part of the cluster.
    pub(super) wals: Store<DeserializeGuard<Wal>>,
    /// Those of every namespace.
    pub(super) slots: Arc<UpgradeSlots>,
    pub(super) turns: WritingTurns,
}

impl WalTaskController {
    pub(crate) fn new(
        context: ReconcileContext,
        tasks: Store<DeserializeGuard<WalTask>>,
        wals: Store<DeserializeGuard<Wal>>,
        slots: Arc<UpgradeSlots>,
        turns: WritingTurns,
    ) -> Self {
        let tally = ConditionTally::new(context.shared.metrics.tasks());
        Self { context, statuses: StatusCache::default(), tally, tasks, wals, slots, turns }
    }
}
