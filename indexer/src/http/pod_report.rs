//! `GET /v1/process`.

use axum::{Json, extract::State};

use super::app::AppState;
use tidemark_crds::PodReport;

/// What this pod does, its progress and what keeps it from its work. It answers also while no store does.
#[utoipa::path(
    get,
    path = "/v1/process",
    tag = "status",
    responses((status = 200, description = "the process", body = PodReport))
)]
pub(crate) async fn pod_report(State(app): State<AppState>) -> Json<PodReport> {
    Json(app.pod().report())
}
