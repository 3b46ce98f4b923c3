//! The operator's metrics for Prometheus. Names carry their units, labels take few values.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tidemark_crds::{TASK_COMMANDS, TaskType, WalTaskState};

use crate::wal_figures::WalFigures;

/// Bounds of duration histograms: 1 ms to 16 s.
const DURATIONS: [f64; 9] = [0.001, 0.004, 0.016, 0.064, 0.256, 0.512, 1.024, 4.096, 16.384];

/// The metrics of one process.
#[derive(Clone, Debug)]
pub(crate) struct OperatorMetrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_duration: Family<ControllerLabels, Histogram>,
    api_requests: Family<ApiRequestLabels, Counter>,
    wals: ConditionGauges,
    wal_figures: WalFigures,
    tasks: ConditionGauges,
    tasks_ended: Family<TaskLabels, Counter>,
    sinks: ConditionGauges,
    sink_lag_operations: Family<SinkLabels, Gauge>,
    sink_lag: Family<SinkLabels, Gauge>,
    sink_dead_letters: Family<SinkLabels, Gauge>,
    polls: Family<ResultLabels, Counter>,
    watch_failures: Family<KindLabels, Counter>,
    watch_synced: Family<WatchLabels, Gauge>,
    scheduled_tasks: Family<ScheduledTaskLabels, Counter>,
    upgrades_stalled: Gauge,
    purges_abandoned: Counter,
    invalid_objects: Counter,
    leader: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

/// A verb as Kubernetes counts them, and the class of the answer's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiRequestLabels {
    verb: &'static str,
    status: &'static str,
}

/// Objects of one kind by what their conditions say.
pub(crate) type ConditionGauges = Family<ConditionLabels, Gauge>;

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ConditionLabels {
    pub(crate) condition: String,
    pub(crate) status: String,
    /// One of our own, so that there are few.
    pub(crate) reason: &'static str,
}

/// The type of a task, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    r#type: &'static str,
    state: &'static str,
}

/// A sink. Prometheus has a label `namespace` of its own, that of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    watched_namespace: String,
    sink: String,
}

/// How far a sink is behind; `None` where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SinkFigures {
    pub(crate) lag_operations: Option<i64>,
    pub(crate) lag_seconds: Option<i64>,
    pub(crate) dead_letters: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// A type of task, and what came of the attempt to make one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScheduledTaskLabels {
    r#type: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

/// A watch: its kind, and its namespace, which is empty for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    kind: String,
    watched_namespace: String,
}

impl Default for OperatorMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl OperatorMetrics {
    /// All zero.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("tidemark_operator"))),
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            api_requests: Family::default(),
            wals: Family::default(),
            wal_figures: WalFigures::default(),
            tasks: Family::default(),
            tasks_ended: Family::default(),
            sinks: Family::default(),
            sink_lag_operations: Family::default(),
            sink_lag: Family::default(),
            sink_dead_letters: Family::default(),
            polls: Family::default(),
            watch_failures: Family::default(),
            watch_synced: Family::default(),
            scheduled_tasks: Family::default(),
            upgrades_stalled: Gauge::default(),
            purges_abandoned: Counter::default(),
            invalid_objects: Counter::default(),
            leader: Gauge::default(),
        };
        metrics.register();
        // An alert sees a counter grow only from a value that it had before.
        for row in TASK_COMMANDS {
            for state in [WalTaskState::Succeeded, WalTaskState::Failed, WalTaskState::Rejected] {
                let labels = TaskLabels { r#type: row.r#type.as_str(), state: state.as_str() };
                metrics.tasks_ended.get_or_create(&labels).inc_by(0);
            }
        }
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        registry.register("reconciles", "reconciliations by controller and result", self.reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "time of one reconciliation",
            Unit::Seconds,
            self.reconcile_duration.clone(),
        );
        registry.register("api_requests", "requests to the API server by verb and class", self.api_requests.clone());
        registry.register("wals", "WALs by condition, its status and its reason", self.wals.clone());
        self.wal_figures.register(&mut registry);
        registry.register("tasks", "tasks by condition, its status and its reason", self.tasks.clone());
        registry.register("tasks_ended", "tasks that ended, by type and state", self.tasks_ended.clone());
        registry.register("sinks", "sinks by condition, its status and its reason", self.sinks.clone());
        registry.register(
            "sink_lag_operations",
            "records that are published and that a sink has not acknowledged",
            self.sink_lag_operations.clone(),
        );
        registry.register_with_unit(
            "sink_lag",
            "how long the oldest of them has been published",
            Unit::Seconds,
            self.sink_lag.clone(),
        );
        registry.register(
            "sink_dead_letters",
            "records that a sink has put aside because the destination will never take them",
            self.sink_dead_letters.clone(),
        );
        registry.register("polls", "polls of data pods by result", self.polls.clone());
        registry.register(
            "watch_failures",
            "watches that failed and were restarted, by kind",
            self.watch_failures.clone(),
        );
        registry.register(
            "watch_synced",
            "1 once a watch has listed its kind in its namespace, 0 while it may not or cannot",
            self.watch_synced.clone(),
        );
        registry.register(
            "scheduled_tasks",
            "tasks that schedules of WALs made, by type and result",
            self.scheduled_tasks.clone(),
        );
        registry.register(
            "upgrades_stalled",
            "WALs whose upgrade waits for a user to act",
            self.upgrades_stalled.clone(),
        );
        registry.register(
            "purges_abandoned",
            "WALs that were deleted before their index was removed",
            self.purges_abandoned.clone(),
        );
        registry.register(
            "invalid_objects",
            "reconciliations of objects that cannot be read",
            self.invalid_objects.clone(),
        );
        registry.register("leader", "1 while this replica holds the lease", self.leader.clone());
    }

    /// Counts a reconciliation.
    pub(crate) fn reconciled(&self, controller: &'static str, result: &'static str, duration: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { controller, result }).inc();
        self.reconcile_duration.get_or_create(&ControllerLabels { controller }).observe(duration.as_secs_f64());
    }

    /// Counts a request to the API server.
    pub(crate) fn requested(&self, verb: &'static str, status: &'static str) {
        self.api_requests.get_or_create(&ApiRequestLabels { verb, status }).inc();
    }

    /// Counts a poll of a data pod.
    pub(crate) fn polled(&self, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.polls.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a failed watch.
    pub(crate) fn watch_failed(&self, kind: &str) {
        self.watch_failures.get_or_create(&KindLabels { kind: kind.to_owned() }).inc();
    }

    /// Whether a watch knows everything of its kind in its namespace, or everywhere.
    pub(crate) fn watch_synced(&self, kind: &str, namespace: Option<&str>, synced: bool) {
        let labels = WatchLabels { kind: kind.to_owned(), watched_namespace: namespace.unwrap_or_default().to_owned() };
        self.watch_synced.get_or_create(&labels).set(i64::from(synced));
    }

    /// Counts a task that a schedule made, or failed to make.
    pub(crate) fn task_scheduled(&self, r#type: TaskType, result: &'static str) {
        self.scheduled_tasks.get_or_create(&ScheduledTaskLabels { r#type: r#type.as_str(), result }).inc();
    }

    /// Counts a purge that was given up.
    pub(crate) fn purge_abandoned(&self) {
        self.purges_abandoned.inc();
    }

    /// Counts an object that cannot be read.
    pub(crate) fn invalid_object(&self) {
        self.invalid_objects.inc();
    }

    /// Whether this replica holds the lease.
    pub(crate) fn leading(&self, leading: bool) {
        self.leader.set(i64::from(leading));
        if !leading {
            self.wals.clear();
            self.wal_figures.clear();
            self.tasks.clear();
            self.sinks.clear();
            self.sink_lag_operations.clear();
            self.sink_lag.clear();
            self.sink_dead_letters.clear();
            self.watch_synced.clear();
            self.upgrades_stalled.set(0);
        }
    }

    /// Moves a WAL into or out of those whose upgrade makes no progress.
    pub(crate) fn stalled(&self, before: bool, now: bool) {
        self.upgrades_stalled.inc_by(i64::from(now) - i64::from(before));
    }

    /// WALs by what their conditions say.
    pub(crate) fn wals(&self) -> ConditionGauges {
        self.wals.clone()
    }

    /// What protects each WAL.
    pub(crate) fn wal_figures(&self) -> &WalFigures {
        &self.wal_figures
    }

    /// Tasks by what their conditions say.
    pub(crate) fn tasks(&self) -> ConditionGauges {
        self.tasks.clone()
    }

    /// Sinks by what their conditions say.
    pub(crate) fn sinks(&self) -> ConditionGauges {
        self.sinks.clone()
    }

    /// How far a sink is behind, as far as that is known.
    pub(crate) fn sink_behind(&self, namespace: &str, sink: &str, figures: SinkFigures) {
        let labels = SinkLabels { watched_namespace: namespace.to_owned(), sink: sink.to_owned() };
        let SinkFigures { lag_operations, lag_seconds, dead_letters } = figures;
        let families = [
            (&self.sink_lag_operations, lag_operations),
            (&self.sink_lag, lag_seconds),
            (&self.sink_dead_letters, dead_letters),
        ];
        for (family, value) in families {
            if let Some(value) = value {
                family.get_or_create(&labels).set(value);
            } else {
                family.remove(&labels);
            }
        }
    }

    /// Counts a task that ended.
    pub(crate) fn task_ended(&self, r#type: &'static str, state: &'static str) {
        self.tasks_ended.get_or_create(&TaskLabels { r#type, state }).inc();
    }

    /// The metrics as text.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_gone_or_unknown_has_no_figures() {
        let metrics = OperatorMetrics::new();
        let figures = SinkFigures { lag_operations: Some(7), lag_seconds: Some(90), dead_letters: Some(0) };
        metrics.sink_behind("data", "search", figures);
        let line = "tidemark_operator_sink_lag_seconds{watched_namespace=\"data\",sink=\"search\"} 90\n";
        assert!(metrics.encode().unwrap().contains(line), "{}", metrics.encode().unwrap());
        metrics.sink_behind("data", "search", SinkFigures::default());
        assert!(!metrics.encode().unwrap().contains("sink=\"search\""));
    }

    /// `increase` of a counter whose first value is 1 is 0: the first failure would be nobody's alert.
    #[test]
    fn tasks_that_end_are_counted_from_zero() {
        let encoded = OperatorMetrics::new().encode().unwrap();
        for row in TASK_COMMANDS {
            for state in ["Succeeded", "Failed", "Rejected"] {
                let line =
                    format!("tidemark_operator_tasks_ended_total{{type=\"{}\",state=\"{state}\"}} 0\n", row.r#type);
                assert!(encoded.contains(&line), "{line}");
            }
        }
    }
}
