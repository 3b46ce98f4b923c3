//! `GET /metrics`: figures for Prometheus. Names carry their units, labels take few values.

mod process;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use self::process::ProcessCollector;
use super::{app::App, problem::Problem};
use crate::process::Process;
use tidemark_search::api::{ProcessRole, StatusAnswer};

/// Content type of the text form.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of duration histograms: 1 ms to 16 s.
const DURATIONS: [f64; 13] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096, 16.384];

/// The figures of one process.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    search_duration: Histogram,
    searches: Family<SearchLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SearchLabels {
    result: &'static str,
}

/// A route is a pattern, never a path; a status is its class.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The figures of this process, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tidemark");
        let search_duration = Histogram::new(DURATIONS);
        let searches = Family::<SearchLabels, Counter>::default();
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register_with_unit(
            "search_duration",
            "time to answer a search, waits for min_token left out",
            Unit::Seconds,
            search_duration.clone(),
        );
        registry.register("search_requests", "searches by result", searches.clone());
        registry.register("http_requests", "requests by route and class of status", requests.clone());
        Self { registry: Arc::new(Mutex::new(registry)), search_duration, searches, requests }
    }

    /// Adds figures of another part of the process; they are asked for at each scrape. Their names get the prefix
    /// `tidemark_`.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }

    /// Adds the figures of the served index.
    pub(super) fn register_status(&self, status: impl Fn() -> Option<StatusAnswer> + Send + Sync + 'static) {
        self.register(Box::new(StatusCollector(Box::new(status))));
    }

    /// Adds the figures of the process.
    pub(super) fn register_process(&self, process: Process) {
        self.register(Box::new(ProcessCollector(process)));
    }

    /// Counts a search.
    pub(super) fn searched(&self, duration: Duration, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.search_duration.observe(duration.as_secs_f64());
        self.searches.get_or_create(&SearchLabels { result }).inc();
    }

    /// Counts a request.
    pub(super) fn requested(&self, route: &str, status: StatusCode) {
        let labels = RequestLabels { route: route.to_owned(), status: class(status) };
        self.requests.get_or_create(&labels).inc();
    }

    /// The figures as text.
    fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Figures of this process in the text form of `OpenMetrics`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "the figures", body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    match app.metrics().encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            Problem::internal().into_response()
        }
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

/// The served index as gauges.
struct StatusCollector(Box<dyn Fn() -> Option<StatusAnswer> + Send + Sync>);

impl fmt::Debug for StatusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusCollector")
    }
}

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(status) = (self.0)() else { return Ok(()) };
        let gauges: [(&str, &str, Option<Unit>, u64); 12] = [
            ("manifest_number", "number of the served manifest", None, status.position.manifest),
            ("epoch_number", "number of the index's writer", None, status.epoch),
            (
                "watermark",
                "every entry before this time is decided and served, since 1970",
                Some(Unit::Seconds),
                unix(status.position.watermark),
            ),
            (
                "horizon",
                "the log is frozen before this time, since 1970",
                Some(Unit::Seconds),
                status.horizon.map_or(0, unix),
            ),
            ("lag", "how long sealed entries wait to be published", Some(Unit::Seconds), status.lag_seconds),
            ("segments", "segments of the served manifest", None, status.segments),
            ("documents", "records in the served manifest", None, status.documents),
            ("index_size", "size of segments and sidecars", Some(Unit::Bytes), status.bytes),
            ("unrecognized_keys", "keys in the log that are not valid tokens", None, status.unrecognized_keys),
            (
                "writer_role",
                "1 in the process that writes the index",
                None,
                u64::from(status.role == ProcessRole::Writer),
            ),
            ("problems", "what does not work at present", None, status.problems.len() as u64),
            (
                "overlay_dropped",
                "unsealed entries that memory had no room for",
                None,
                status.overlay.as_ref().map_or(0, |overlay| overlay.dropped),
            ),
        ];
        for (name, help, unit, value) in gauges {
            gauge(&mut encoder, name, help, unit.as_ref(), value)?;
        }
        operations(&mut encoder, &status)
    }
}

fn operations(encoder: &mut DescriptorEncoder, status: &StatusAnswer) -> Result<(), fmt::Error> {
    let counts = &status.entries;
    let gauge = ConstGauge::new(0u64);
    let mut family = encoder.encode_descriptor("operations", "operations by outcome", None, gauge.metric_type())?;
    for (outcome, count) in [
        ("committed", counts.committed),
        ("late", counts.late),
        ("aborted", counts.aborted),
        ("malformed", counts.malformed),
        ("duplicate", counts.duplicate),
        ("fenced", counts.fenced),
        ("expired", counts.expired),
        ("pending", counts.pending),
    ] {
        ConstGauge::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

fn unix(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}
