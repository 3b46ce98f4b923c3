//! `GET /metrics`.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::problem::HttpProblem;
use crate::metrics::MetricsRegistry;

/// Content type of the text form.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Figures of this process in the text form of `OpenMetrics`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "the figures", body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(metrics): State<MetricsRegistry>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to write the metrics");
            HttpProblem::internal().into_response()
        }
    }
}
