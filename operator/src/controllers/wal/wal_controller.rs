//! What the controller of WALs holds, and what all its steps share.

use std::sync::Arc;

use futures::FutureExt as _;
use kube::{core::DeserializeGuard, runtime::reflector::Store};
use tidemark_crds::{Wal, WalTask, names};

use super::{failed_writes::FailedWrites, stalled_upgrades::StalledUpgrades};
use crate::{
    cache::{ChildKind, NamespacedName},
    condition_tally::ConditionTally,
    context::ReconcileContext,
    reconcile_queues::ReconcileTarget,
    status_cache::StatusCache,
    upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

/// The controller of the WALs in one namespace, or in the whole cluster.
pub(crate) struct WalController {
    pub(super) context: ReconcileContext,
    pub(super) statuses: StatusCache<Wal>,
    /// All tasks of its part of the cluster.
    tasks: Store<DeserializeGuard<WalTask>>,
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
    pub(crate) fn new(
        context: ReconcileContext,
        slots: Arc<UpgradeSlots>,
        turns: WritingTurns,
        tasks: Store<DeserializeGuard<WalTask>>,
    ) -> Self {
        let metrics = &context.shared.metrics;
        let (tally, stalled) = (ConditionTally::new(metrics.wals()), StalledUpgrades::new(metrics.clone()));
        Self {
            context,
            statuses: StatusCache::default(),
            tasks,
            tally,
            stalled,
            failed_writes: FailedWrites::default(),
            failed_finalizers: FailedWrites::default(),
            slots,
            turns,
        }
    }

    /// Whether all tasks are known.
    pub(super) fn tasks_listed(&self) -> bool {
        self.tasks.wait_until_ready().now_or_never().is_some()
    }

    /// The tasks of a WAL that this release can read.
    pub(super) fn tasks_of(&self, wal: &NamespacedName) -> Vec<Arc<WalTask>> {
        let is_of_wal = |task: &WalTask| {
            *task.spec.wal_ref.name == *wal.name && task.metadata.namespace.as_deref() == Some(&*wal.namespace)
        };
        let read = |task: Arc<DeserializeGuard<WalTask>>| task.0.as_ref().ok().filter(|task| is_of_wal(task)).cloned();
        self.tasks.state().into_iter().filter_map(read).map(Arc::new).collect()
    }

    /// Has the tasks reconciled that run Jobs of a WAL which is being deleted, or is gone: they stop.
    pub(super) fn stop_tasks(&self, key: &NamespacedName) {
        let owned = self.context.cache.owned(key);
        let running = owned.children.values().filter_map(|child| child.job.as_ref()).filter(|job| job.end.is_none());
        for job in running {
            let task = NamespacedName::new(&key.namespace, &job.task);
            // With a full queue the resync finds them.
            self.context.shared.queues.try_send(ReconcileTarget::new(names::TASK_KIND, task));
        }
    }

    /// Has the sinks of a WAL reconciled: they follow its spec, what its writer runs, and its end.
    pub(super) fn wake_sinks(&self, key: &NamespacedName) {
        let owned = self.context.cache.owned(key);
        let deployments = owned.children.values().filter(|child| child.kind == ChildKind::Deployment);
        let owners = deployments.filter_map(|child| child.controller.as_ref());
        for sink in owners.filter(|owner| &*owner.kind == names::SINK_KIND) {
            let sink = NamespacedName::new(&key.namespace, &sink.name);
            // With a full queue the resync finds them.
            self.context.shared.queues.try_send(ReconcileTarget::new(names::SINK_KIND, sink));
        }
    }

    /// Releases the upgrade slot of a WAL of which nothing more is changed, and has those reconciled that may get it.
    pub(super) async fn release_slot(&self, key: &NamespacedName) {
        for next in self.slots.release(key) {
            self.context.shared.queues.send(ReconcileTarget::new(names::KIND, next)).await;
        }
    }
}
