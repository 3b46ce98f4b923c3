//! What the controller of sinks holds.

use kube::{core::DeserializeGuard, runtime::reflector::Store};
use tidemark_crds::{Wal, WalSink};

use crate::{
    condition_tally::ConditionTally, context::ReconcileContext, controllers::wal::failed_writes::FailedWrites,
    status_cache::StatusCache,
};

/// The controller of the sinks in one namespace, or in the whole cluster.
pub(crate) struct WalSinkController {
    pub(super) context: ReconcileContext,
    pub(super) statuses: StatusCache<WalSink>,
    pub(super) tally: ConditionTally,
    pub(super) failed_writes: FailedWrites,
    /// All WALs of its part of the cluster.
    pub(super) wals: Store<DeserializeGuard<Wal>>,
}

impl WalSinkController {
    pub(crate) fn new(context: ReconcileContext, wals: Store<DeserializeGuard<Wal>>) -> Self {
        let tally = ConditionTally::new(context.shared.metrics.sinks());
        Self { context, statuses: StatusCache::default(), tally, failed_writes: FailedWrites::default(), wals }
    }
}
