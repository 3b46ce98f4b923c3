//! What a service of appends counts.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Unit,
};

use super::{
    gauge::gauge,
    registry::{DURATIONS, MetricsRegistry},
};

/// The figures of the entries that a service appends.
#[derive(Clone)]
pub(crate) struct AppendFigures {
    entries: Family<AppendLabels, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AppendLabels {
    result: &'static str,
}

/// How many entries and bytes are in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppendsInFlight {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl AppendFigures {
    /// Figures that `metrics` shows, beside what is in flight.
    pub(crate) fn registered(
        metrics: &MetricsRegistry,
        in_flight: impl Fn() -> AppendsInFlight + Send + Sync + 'static,
    ) -> Self {
        let (entries, duration) = (Family::<AppendLabels, Counter>::default(), Histogram::new(DURATIONS));
        metrics.with_registry(|registry| {
            registry.register("append_entries", "entries by what became of them", entries.clone());
            let help = "time from a draft to its answer";
            registry.register_with_unit("append_duration", help, Unit::Seconds, duration.clone());
        });
        metrics.register(Box::new(InFlightCollector(Box::new(in_flight))));
        Self { entries, duration }
    }

    /// Counts an entry.
    pub(crate) fn appended(&self, result: &'static str, duration: Duration) {
        self.entries.get_or_create(&AppendLabels { result }).inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

struct InFlightCollector(Box<dyn Fn() -> AppendsInFlight + Send + Sync>);

impl fmt::Debug for InFlightCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlightCollector")
    }
}

impl Collector for InFlightCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let AppendsInFlight { entries, bytes } = (self.0)();
        gauge(&mut encoder, "append_entries_in_flight", "entries that are being appended", None, entries)?;
        let help = "size of the requests whose entries are being appended";
        gauge(&mut encoder, "append_in_flight", help, Some(&Unit::Bytes), bytes)
    }
}
