//! `GET /v1/status`.

use axum::{
    Json,
    extract::{RawQuery, State},
};

use super::{
    app::App,
    parameters::Parameters,
    problem::{Problem, ProblemDetails},
};
use tidemark_search::api::StatusAnswer;

/// How far the index is behind the log, and what it holds.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "status",
    responses(
        (status = 200, description = "the state", body = StatusAnswer),
        (status = 503, description = "there is no index yet", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn status(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<StatusAnswer>, Problem> {
    Parameters::read(query.as_deref(), &[])?;
    app.status().map(Json).ok_or_else(|| Problem::not_ready(app.not_ready()))
}
