//! Runs the controllers in every part of the cluster that is watched.

use std::{convert::Infallible, sync::Arc};

use futures::FutureExt as _;
use kube::{Client, runtime::reflector::store};
use tidemark_crds::names;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{kind_controller::run_kind, wal::WalController, wal_sink::WalSinkController, wal_task::WalTaskController};
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
    writing_turns::WritingTurns,
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
    let changed: Vec<_> =
        namespaces.iter().map(|namespace| ChangedKeys::open(&mut queues, namespace.as_deref())).collect();
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

/// Keys of objects to reconcile, by kind.
struct ChangedKeys {
    wals: mpsc::Receiver<NamespacedName>,
    tasks: mpsc::Receiver<NamespacedName>,
    sinks: mpsc::Receiver<NamespacedName>,
}

impl ChangedKeys {
    fn open(queues: &mut ReconcileQueues, namespace: Option<&str>) -> Self {
        Self {
            wals: queues.open(names::KIND, namespace),
            tasks: queues.open(names::TASK_KIND, namespace),
            sinks: queues.open(names::SINK_KIND, namespace),
        }
    }
}

/// Runs the controllers in one namespace, or in the whole cluster.
async fn run_part(
    shared: Arc<LeaderContext>,
    slots: Arc<UpgradeSlots>,
    namespace: Option<String>,
    changed: ChangedKeys,
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
    let (wals, tasks, turns) = (store(), store(), WritingTurns::default());
    let listed = watches.listed().boxed().shared();
    // A task or a sink whose WAL is not listed yet would be taken for one without a WAL.
    let wals_listed = wals.0.clone();
    let listed_with_wals = listed.clone().then(async move |()| {
        if wals_listed.wait_until_ready().await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let listed_with_wals = listed_with_wals.boxed().shared();
    let sinks = store();
    let of_sinks = WalSinkController::new(context.clone(), wals.0.clone());
    let of_tasks =
        WalTaskController::new(context.clone(), tasks.0.clone(), wals.0.clone(), slots.clone(), turns.clone());
    let of_wals = WalController::new(context, slots, turns, tasks.0.clone());
    tokio::select! {
        () = run_kind(of_wals, wals, shared.clone(), namespace, changed.wals, listed) => {
            Err(ControllersError::Task("controller of WALs"))
        }
        () = run_kind(of_tasks, tasks, shared.clone(), namespace, changed.tasks, listed_with_wals.clone()) => {
            Err(ControllersError::Task("controller of tasks"))
        }
        () = run_kind(of_sinks, sinks, shared, namespace, changed.sinks, listed_with_wals) => {
            Err(ControllersError::Task("controller of sinks"))
        }
        () = poller.run() => Err(ControllersError::Task("poller of the data pods")),
        Some(ended) = watches.tasks.join_next() => {
            ended?;
            Err(ControllersError::Task("watch"))
        }
    }
}
