//! `GET /v1/process`.

use axum::{Json, extract::State};

use super::app::AppState;
use tidemark_crds::PodReport;

/// What the process does, how far it is and what keeps it from its work. Always there, also while no store answers.
#[utoipa::path(
    get,
    path = "/v1/process",
    tag = "status",
    responses((status = 200, description = "the process", body = PodReport))
)]
pub(crate) async fn pod_report(State(app): State<AppState>) -> Json<PodReport> {
    Json(app.pod().report())
}
