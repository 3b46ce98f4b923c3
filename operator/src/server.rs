//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use crate::metrics::OperatorMetrics;

/// Content type of the text form.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the process can work, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadinessState {
    /// As leader or as the one that waits for the lease.
    Ready,
    /// Why not, and what to do about it.
    Unready(Arc<str>),
}

#[derive(Clone)]
struct ServerState {
    metrics: OperatorMetrics,
    readiness: watch::Receiver<ReadinessState>,
}

/// The routes.
pub(crate) fn router(metrics: OperatorMetrics, readiness: watch::Receiver<ReadinessState>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(encode_metrics))
        .with_state(ServerState { metrics, readiness })
}

async fn ready(State(shared): State<ServerState>) -> Response {
    match shared.readiness.borrow().clone() {
        ReadinessState::Ready => "ok".into_response(),
        ReadinessState::Unready(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason.to_string()).into_response(),
    }
}

async fn encode_metrics(State(shared): State<ServerState>) -> Response {
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn it_is_alive_from_the_start_and_ready_when_it_can_work() {
        let (sender, readiness) = watch::channel(ReadinessState::Unready("the CRD is missing".into()));
        let router = router(OperatorMetrics::new(), readiness);
        assert_eq!(status(&router, "/healthz").await, StatusCode::OK);
        assert_eq!(status(&router, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        sender.send_replace(ReadinessState::Ready);
        assert_eq!(status(&router, "/readyz").await, StatusCode::OK);
        assert_eq!(status(&router, "/metrics").await, StatusCode::OK);
    }
}
