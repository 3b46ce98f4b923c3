//! What the reconciliations share.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::Semaphore;

use crate::{
    cache::ObjectCache, controllers::wal::build::PlatformSettings, event_publisher::EventPublisher,
    metrics::OperatorMetrics, pod_report_poller::PodObservations, reconcile_queues::ReconcileQueues,
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

/// What all reconciliations of a leader share, whatever kind of object they reconcile.
pub(crate) struct LeaderContext {
    pub(crate) client: Client,
    pub(crate) settings: OperatorSettings,
    pub(crate) metrics: OperatorMetrics,
    pub(crate) events: EventPublisher,
    /// What has to be reconciled, of every kind and namespace.
    pub(crate) queues: Arc<ReconcileQueues>,
    /// As many as may run at once, over all kinds and namespaces.
    pub(crate) permits: Semaphore,
}

/// What the reconciliations in one namespace, or in the whole cluster, share.
#[derive(Clone)]
pub(crate) struct ReconcileContext {
    pub(crate) shared: Arc<LeaderContext>,
    pub(crate) cache: ObjectCache,
    pub(crate) observations: PodObservations,
}
