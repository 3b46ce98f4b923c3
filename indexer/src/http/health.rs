//! `GET /healthz` and `GET /readyz`.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{
    app::AppState,
    problem::{HttpProblem, ProblemDetails},
};

/// Whether the process lives: it answers.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 200, description = "it lives", body = Value))
)]
pub(crate) async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Whether requests should be sent here. A standby is ready; a process that is stopping is not.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "ready", body = Value),
        (status = 503, description = "not ready, with the reason", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn readyz(State(app): State<AppState>) -> Result<Json<Value>, HttpProblem> {
    app.ready().map_err(HttpProblem::not_ready)?;
    Ok(Json(json!({ "status": "ready" })))
}
