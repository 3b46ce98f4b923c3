//! What a WAL has to lose and what protects it, as its status says, for the metrics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tidemark_crds::WalStatus;

use crate::cache::NamespacedName;

/// A WAL. Prometheus has a label `namespace` of its own, that of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WalLabels {
    watched_namespace: String,
    wal: String,
}

type FigureGauges = Family<WalLabels, Gauge>;

/// A figure of the status: how it is called, in what unit, what it says, and how it is read.
type Figure = (&'static str, Option<Unit>, &'static str, fn(&WalStatus) -> Option<i64>);

/// Times are those of Unix, so that an age does not depend on when the status was last looked at.
const FIGURES: [Figure; 8] = [
    ("wal_snapshot_time", Some(Unit::Seconds), "when the newest verified snapshot was taken", |status| {
        let snapshot = status.last_snapshot.as_ref().filter(|snapshot| snapshot.verified)?;
        Some(snapshot.time.0.as_second())
    }),
    (
        "wal_recovery_window_start",
        Some(Unit::Seconds),
        "the earliest time that the index can be restored to",
        |status| Some(status.recovery_window.as_ref()?.first.0.as_second()),
    ),
    ("wal_log_size", Some(Unit::Bytes), "bytes of the entries in the log, as a task counted them last", |status| {
        Some(status.log_size.as_ref()?.bytes)
    }),
    ("wal_log_entries", None, "entries in the log, as a task counted them last", |status| {
        Some(status.log_size.as_ref()?.entries)
    }),
    ("wal_cleanup_time", Some(Unit::Seconds), "when the last cleanup ended that was through", |status| {
        Some(status.last_cleanup.as_ref()?.time.0.as_second())
    }),
    ("wal_cleanup_freed", Some(Unit::Bytes), "bytes that the last cleanup deleted from the log", |status| {
        status.last_cleanup.as_ref()?.deleted_bytes
    }),
    ("wal_verification_time", Some(Unit::Seconds), "when the last verification ended that was through", |status| {
        Some(status.last_verification.as_ref()?.time.0.as_second())
    }),
    ("wal_drill_time", Some(Unit::Seconds), "when a snapshot was last restored to try it", |status| {
        Some(status.last_verification.as_ref()?.last_drill.as_ref()?.0.as_second())
    }),
];

/// A gauge of each figure, for each WAL of which it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct WalFigures([FigureGauges; FIGURES.len()]);

impl WalFigures {
    pub(crate) fn register(&self, registry: &mut Registry) {
        for ((name, unit, help, _), gauges) in FIGURES.into_iter().zip(&self.0) {
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauges.clone()),
                None => registry.register(name, help, gauges.clone()),
            }
        }
    }

    /// Shows what the status of a WAL says, and nothing of what it does not say.
    pub(crate) fn show(&self, wal: &NamespacedName, status: &WalStatus) {
        let labels = WalLabels { watched_namespace: wal.namespace.to_string(), wal: wal.name.to_string() };
        for ((.., read), gauges) in FIGURES.into_iter().zip(&self.0) {
            match read(status) {
                Some(value) => {
                    gauges.get_or_create(&labels).set(value);
                }
                None => {
                    gauges.remove(&labels);
                }
            }
        }
    }

    /// Forgets a WAL that is gone.
    pub(crate) fn forget(&self, wal: &NamespacedName) {
        self.show(wal, &WalStatus::default());
    }

    /// Forgets all of them: another replica leads.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(Family::clear);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metrics::OperatorMetrics;

    /// The lines of WALs.
    fn shown(metrics: &OperatorMetrics) -> Vec<String> {
        let encoded = metrics.encode().unwrap();
        let labelled = encoded.lines().filter(|line| line.contains("wal=\""));
        labelled.map(|line| line.replace("tidemark_operator_wal_", "")).collect()
    }

    #[test]
    fn a_wal_shows_what_its_status_says_and_nothing_else() {
        let metrics = OperatorMetrics::new();
        let key = NamespacedName::new("data", "orders");
        let time = "2026-11-20T00:00:00Z";
        let status = json!({
            "lastSnapshot": {"name": "s", "time": time, "verified": true},
            "recoveryWindow": {"time": time, "first": "2026-11-19T00:00:00Z", "last": time},
            "logSize": {"time": time, "entries": 7, "bytes": 700},
            "lastCleanup": {"time": time, "deletedEntries": 3, "deletedBytes": 0},
            "lastVerification": {"time": time, "lastDrill": "2026-11-18T00:00:00Z"},
        });
        let status: WalStatus = serde_json::from_value(status).unwrap();
        metrics.wal_figures().show(&key, &status);
        let expected = [
            ("snapshot_time_seconds", 1_795_132_800_i64),
            ("recovery_window_start_seconds", 1_795_046_400),
            ("log_size_bytes", 700),
            ("log_entries", 7),
            ("cleanup_time_seconds", 1_795_132_800),
            ("cleanup_freed_bytes", 0),
            ("verification_time_seconds", 1_795_132_800),
            ("drill_time_seconds", 1_794_960_000),
        ];
        let line = |(name, value): (&str, i64)| format!("{name}{{watched_namespace=\"data\",wal=\"orders\"}} {value}");
        assert_eq!(shown(&metrics), expected.map(line));
        // A snapshot that is not verified protects nothing, and what is not known is not shown as nothing.
        let mut less = status.clone();
        less.last_snapshot.as_mut().unwrap().verified = false;
        (less.log_size, less.last_cleanup, less.last_verification) = (None, None, None);
        metrics.wal_figures().show(&key, &less);
        assert_eq!(shown(&metrics), [line(expected[1])]);
        metrics.wal_figures().forget(&key);
        assert_eq!(shown(&metrics), [""; 0]);
        metrics.wal_figures().show(&key, &status);
        metrics.leading(false);
        assert_eq!(shown(&metrics), [""; 0]);
    }
}
