//! `GET /v1/status`.

use axum::{Json, extract::State};

use super::{
    app::AppState,
    extract::{NoArgs, QueryArgs},
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::StatusAnswer;

/// How far the index is behind the log, and what it holds.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "status",
    params(NoArgs),
    responses(
        (status = 200, description = "the state", body = StatusAnswer),
        (status = 400, description = "there are no parameters", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "there is no index yet", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn status(
    State(app): State<AppState>,
    _: QueryArgs<NoArgs>,
) -> Result<Json<StatusAnswer>, HttpProblem> {
    app.status().map(Json).ok_or_else(|| HttpProblem::not_ready(app.not_ready()))
}
