//! Runs the controllers in every part of the cluster that is watched.

use std::{convert::Infallible, sync::Arc};

use kube::Client;
use tidemark_crds::names;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{kind_controller::run_kind, wal::WalController};
use crate::{
    args::RunArgs,
    cache::{self, NamespacedName, ObjectCache},
    context::{LeaderContext, OperatorSettings, ReconcileContext},
    event_publisher::EventPublisher,
    metrics::OperatorMetrics,
    pod_report_client::PodReportClient,
    pod_report_poller::{PodObservations, PodReportPoller},
    reconcile_queues::ReconcileQueues,
    upgrade_slots::UpgradeSlots,
};

/// A part of the operator ended that runs until the process ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllersError {
    #[error("the {0} ended unexpectedly")]
    Task(&'static str),
    #[error("a task of the controllers panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    #[error("failed to create the HTTP client for the data pods: {0}")]
    PodReportClient(#[from] reqwest::Error),
}

/// Reconciles until it is dropped.
pub(crate) async fn run(
    client: Client,
    args: &RunArgs,
    settings: OperatorSettings,
    metrics: OperatorMetrics,
) -> Result<Infallible, ControllersError> {
    let namespaces: Vec<Option<String>> = match args.scope.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().cloned().map(Some).collect(),
    };
    let mut queues = ReconcileQueues::default();
    let changed: Vec<_> = namespaces.iter().map(|namespace| queues.open(names::KIND, namespace.as_deref())).collect();
    let shared = Arc::new(LeaderContext {
        events: EventPublisher::new(client.clone(), &args.lease.identity),
        queues: Arc::new(queues),
        permits: Semaphore::new(usize::from(settings.concurrency)),
        client,
        settings,
        metrics,
    });
    let slots = Arc::new(UpgradeSlots::new(args.upgrade.max_concurrent_upgrades, namespaces.len()));
    let mut parts = JoinSet::new();
    for (namespace, changed) in namespaces.into_iter().zip(changed) {
        parts.spawn(run_part(shared.clone(), slots.clone(), namespace, changed));
    }
    match parts.join_next().await {
        Some(ended) => ended?,
        None => Err(ControllersError::Task("controller")),
    }
}

/// Runs the controllers in one namespace, or in the whole cluster.
async fn run_part(
    shared: Arc<LeaderContext>,
    slots: Arc<UpgradeSlots>,
    namespace: Option<String>,
    wals: mpsc::Receiver<NamespacedName>,
) -> Result<Infallible, ControllersError> {
    let namespace = namespace.as_deref();
    let (cache, observations) = (ObjectCache::default(), PodObservations::default());
    let mut watches = cache::watch(&shared.client, namespace, &cache, &shared.queues, &shared.metrics);
    let poller = PodReportPoller {
        cache: cache.clone(),
        observations: observations.clone(),
        queues: shared.queues.clone(),
        client: PodReportClient::new()?,
        port: shared.settings.pod_port,
        interval: shared.settings.poll_interval,
        metrics: shared.metrics.clone(),
    };
    let context = ReconcileContext { shared: shared.clone(), cache, observations };
    let controller = WalController::new(context, slots);
    let listed = watches.listed();
    tokio::select! {
        () = run_kind(controller, shared, namespace, wals, listed) => Err(ControllersError::Task("controller of WALs")),
        () = poller.run() => Err(ControllersError::Task("poller of the data pods")),
        Some(ended) = watches.tasks.join_next() => {
            ended?;
            Err(ControllersError::Task("watch"))
        }
    }
}
