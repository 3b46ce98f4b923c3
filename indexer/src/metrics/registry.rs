//! The registry: what is counted here, and what is collected from the state.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tidemark_search::api::StatusAnswer;

use super::{index::IndexCollector, pod::PodCollector};
use crate::pod_status::PodStatus;

/// Bounds of duration histograms: 1 ms to 16 s.
pub(super) const DURATIONS: [f64; 13] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096, 16.384];

/// The figures of one process.
#[derive(Clone)]
pub struct MetricsRegistry {
    registry: Arc<Mutex<Registry>>,
    search_duration: Histogram,
    searches: Family<SearchLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    closed_connections: Family<ConnectionLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SearchLabels {
    result: &'static str,
}

/// Why a connection was closed: `displaced`, or which time-out ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    reason: &'static str,
}

/// A route is a pattern, never a path; a status is its class.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: &'static str,
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsRegistry {
    /// The figures of this process, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tidemark");
        let search_duration = Histogram::new(DURATIONS);
        let searches = Family::<SearchLabels, Counter>::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let closed_connections = Family::<ConnectionLabels, Counter>::default();
        registry.register_with_unit(
            "search_duration",
            "time to answer a search, waits for min_token left out",
            Unit::Seconds,
            search_duration.clone(),
        );
        registry.register("search_requests", "searches by result", searches.clone());
        registry.register("http_requests", "requests by route and class of status", requests.clone());
        let help = "connections that the server closed, by reason";
        registry.register("http_connections_closed", help, closed_connections.clone());
        Self { registry: Arc::new(Mutex::new(registry)), search_duration, searches, requests, closed_connections }
    }

    /// Adds metrics of another part of the process, collected at each scrape. Their names get the prefix `tidemark_`.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// Registers figures that another part of the process counts.
    pub(super) fn with_registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock())
    }

    /// Adds the figures of the served index.
    pub(crate) fn register_status(&self, status: impl Fn() -> Option<StatusAnswer> + Send + Sync + 'static) {
        self.register(Box::new(IndexCollector(Box::new(status))));
    }

    /// Adds the figures of the process.
    pub(crate) fn register_pod(&self, pod: PodStatus) {
        self.register(Box::new(PodCollector(pod)));
    }

    /// Counts a search.
    pub(crate) fn searched(&self, duration: Duration, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.search_duration.observe(duration.as_secs_f64());
        self.searches.get_or_create(&SearchLabels { result }).inc();
    }

    /// Counts a request.
    pub(crate) fn requested(&self, route: &str, status: u16) {
        let labels = RequestLabels { route: route.to_owned(), status: class(status) };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a connection that the server closed.
    pub(crate) fn connection_closed(&self, reason: &'static str) {
        self.closed_connections.get_or_create(&ConnectionLabels { reason }).inc();
    }

    /// The figures as text.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn class(status: u16) -> &'static str {
    match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}
