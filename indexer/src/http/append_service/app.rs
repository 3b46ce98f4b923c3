//! What the handlers share: the writer, its bounds, and the work that goes on when a client is gone.

use axum::extract::FromRef;
use tidemark_wal::{AppendBatcher, FlushPolicy, LockRef, LogWriter};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::admission::{AppendAdmission, AppendLimits};
use crate::metrics::{AppendFigures, MetricsRegistry};

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub(super) struct AppendApp {
    pub(super) writer: LogWriter,
    /// Whether drafts without a writer have one that other processes know, so that their keys count.
    pub(super) has_writer_name: bool,
    /// What guards drafts that name no lock.
    pub(super) lock: Option<LockRef>,
    pub(super) batcher: AppendBatcher,
    pub(super) admission: AppendAdmission,
    pub(super) figures: AppendFigures,
    pub(super) metrics: MetricsRegistry,
    pub(super) stop: CancellationToken,
    /// The appends that were begun. They end whether or not their client waits.
    pub(super) appends: TaskTracker,
}

impl AppendApp {
    pub(super) fn new(
        writer: LogWriter,
        has_writer_name: bool,
        lock: Option<LockRef>,
        limits: AppendLimits,
        stop: CancellationToken,
    ) -> Self {
        let (metrics, admission) = (MetricsRegistry::new(), AppendAdmission::new(limits));
        let counted = admission.clone();
        let figures = AppendFigures::registered(&metrics, move || counted.in_flight());
        let batcher = AppendBatcher::new(writer.clone(), FlushPolicy::default());
        Self { writer, has_writer_name, lock, batcher, admission, figures, metrics, stop, appends: TaskTracker::new() }
    }
}

impl FromRef<AppendApp> for MetricsRegistry {
    fn from_ref(app: &AppendApp) -> Self {
        app.metrics.clone()
    }
}
