//! What the reconciliations share.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tidemark_crds::Wal;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    cache::{NamespacedName, ObjectCache},
    condition_tally::ConditionTally,
    controllers::wal::build::PlatformSettings,
    events::EventPublisher,
    metrics::OperatorMetrics,
    pod_report_poller::PodObservations,
    status_cache::StatusCache,
    upgrade_slots::UpgradeSlots,
};

/// What does not change while the operator runs.
#[derive(Clone, Debug)]
pub(crate) struct OperatorSettings {
    pub(crate) platform: PlatformSettings,
    /// Revision of the pods that this operator builds.
    pub(crate) release: String,
    /// Name of the cluster in ownership records.
    pub(crate) cluster_id: String,
    /// Revision that may roll out to every WAL, or nothing.
    pub(crate) upgrade_approved: String,
    pub(crate) poll_interval: Duration,
    pub(crate) pod_port: u16,
    pub(crate) purge_timeout: Duration,
    pub(crate) concurrency: u16,
}

/// What all reconciliations of a leader share.
pub(crate) struct LeaderContext {
    pub(crate) client: Client,
    pub(crate) settings: OperatorSettings,
    pub(crate) metrics: OperatorMetrics,
    pub(crate) events: EventPublisher,
    pub(crate) slots: UpgradeSlots,
    pub(crate) statuses: StatusCache<Wal>,
    pub(crate) tally: ConditionTally,
    /// As many as may run at once, over all kinds and namespaces.
    pub(crate) permits: Semaphore,
}

/// What the reconciliations in one namespace, or in the whole cluster, share.
#[derive(Clone)]
pub(crate) struct ReconcileContext {
    pub(crate) shared: Arc<LeaderContext>,
    pub(crate) cache: ObjectCache,
    pub(crate) observations: PodObservations,
    /// Takes WALs that have to be reconciled.
    pub(crate) changed: mpsc::Sender<NamespacedName>,
}
