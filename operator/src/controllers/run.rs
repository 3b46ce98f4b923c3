//! Runs the controllers in every part of the cluster that is watched.

use std::{convert::Infallible, sync::Arc};

use kube::Client;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{kind::run_kind, wal::WalController};
use crate::{
    args::RunArgs,
    cache::{self, ObjectCache},
    condition_tally::ConditionTally,
    context::{LeaderContext, OperatorSettings, ReconcileContext},
    events::EventPublisher,
    metrics::OperatorMetrics,
    pod_report_client::PodReportClient,
    pod_report_poller::{PodObservations, PodReportPoller},
    status_cache::StatusCache,
    upgrade_slots::UpgradeSlots,
};

/// How many keys may wait to be reconciled before a sender has to wait.
const QUEUE_CAPACITY: usize = 1024;

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
    let concurrency = usize::from(settings.concurrency);
    let shared = Arc::new(LeaderContext {
        events: EventPublisher::new(client.clone(), &args.lease.identity),
        slots: UpgradeSlots::new(args.upgrade.max_concurrent_upgrades, namespaces.len()),
        statuses: StatusCache::default(),
        tally: ConditionTally::new(metrics.clone()),
        permits: Semaphore::new(concurrency),
        client,
        settings,
        metrics,
    });
    let mut parts = JoinSet::new();
    for namespace in namespaces {
        parts.spawn(run_part(shared.clone(), namespace));
    }
    match parts.join_next().await {
        Some(ended) => ended?,
        None => Err(ControllersError::Task("controller")),
    }
}

/// Runs the controllers in one namespace, or in the whole cluster.
async fn run_part(shared: Arc<LeaderContext>, namespace: Option<String>) -> Result<Infallible, ControllersError> {
    let (sender, changed) = mpsc::channel(QUEUE_CAPACITY);
    let (cache, observations) = (ObjectCache::default(), PodObservations::default());
    let mut watches = cache::watch(&shared.client, namespace.as_deref(), &cache, &sender, &shared.metrics);
    let poller = PodReportPoller {
        cache: cache.clone(),
        observations: observations.clone(),
        changed: sender.clone(),
        client: PodReportClient::new()?,
        port: shared.settings.pod_port,
        interval: shared.settings.poll_interval,
        metrics: shared.metrics.clone(),
    };
    let context = Arc::new(ReconcileContext { shared, cache, observations, changed: sender });
    let listed = watches.listed();
    tokio::select! {
        () = run_kind::<WalController>(context, namespace, changed, listed) => Err(ControllersError::Task("controller")),
        () = poller.run() => Err(ControllersError::Task("poller of the data pods")),
        Some(ended) = watches.tasks.join_next() => {
            ended?;
            Err(ControllersError::Task("watch"))
        }
    }
}
