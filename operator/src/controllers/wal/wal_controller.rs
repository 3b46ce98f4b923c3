//! What the controller of WALs holds, and what all its steps share.

use std::sync::Arc;

use tidemark_crds::{Wal, names};

use super::{failed_writes::FailedWrites, stalled_upgrades::StalledUpgrades};
use crate::{
    cache::NamespacedName, condition_tally::ConditionTally, context::ReconcileContext,
    reconcile_queues::ReconcileTarget, status_cache::StatusCache, upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

/// The controller of the WALs in one namespace, or in the whole cluster.
pub(crate) struct WalController {
    pub(super) context: ReconcileContext,
    pub(super) statuses: StatusCache<Wal>,
    pub(super) tally: ConditionTally,
    pub(super) stalled: StalledUpgrades,
    pub(super) failed_writes: FailedWrites,
    /// Those of the finalizer.
    pub(super) failed_finalizers: FailedWrites,
    /// Those of every namespace.
    pub(super) slots: Arc<UpgradeSlots>,
    /// Whose Job is being created.
    pub(super) turns: WritingTurns,
}

impl WalController {
    pub(crate) fn new(context: ReconcileContext, slots: Arc<UpgradeSlots>, turns: WritingTurns) -> Self {
        let metrics = &context.shared.metrics;
        let (tally, stalled) = (ConditionTally::new(metrics.wals()), StalledUpgrades::new(metrics.clone()));
        Self {
            context,
            statuses: StatusCache::default(),
            tally,
            stalled,
            failed_writes: FailedWrites::default(),
            failed_finalizers: FailedWrites::default(),
            slots,
            turns,
        }
    }

    /// Releases the upgrade slot of a WAL of which nothing more is changed, and has those reconciled that may get it.
    pub(super) async fn release_slot(&self, key: &NamespacedName) {
        for next in self.slots.release(key) {
            self.context.shared.queues.send(ReconcileTarget::new(names::KIND, next)).await;
        }
    }
}
