//! `GET /v1/process`.

use axum::{Json, extract::State};

use super::app::App;
use crate::process::ProcessAnswer;

/// What the process does, how far it is and what keeps it from its work. Always there, also while no store answers.
#[utoipa::path(
    get,
    path = "/v1/process",
    tag = "status",
    responses((status = 200, description = "the process", body = ProcessAnswer))
)]
pub(crate) async fn process(State(app): State<App>) -> Json<ProcessAnswer> {
    Json(app.process().answer())
}
