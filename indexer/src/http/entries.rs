//! `GET /v1/entries/{token}`.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};

use super::{
    app::App,
    parameters::Parameters,
    problem::{Problem, ProblemDetails},
};
use tidemark_search::api::EntryAnswer;

const PARAMETERS: &[&str] = &["min_token", "wait"];

/// One entry with its payload, its operations, their descriptors and what their outcomes rest on.
#[utoipa::path(
    get,
    path = "/v1/entries/{token}",
    tag = "entries",
    params(
        ("token" = String, Path, description = "the entry's token"),
        ("min_token" = Option<String>, Query, description = "wait until this entry is visible"),
        ("wait" = Option<u64>, Query, description = "for so many seconds at most, 0 to 20; 5 by default"),
    ),
    responses(
        (status = 200, description = "the entry", body = EntryAnswer),
        (status = 400, description = "not a token, or a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "not in the index", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn entry(
    State(app): State<App>,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<EntryAnswer>, Problem> {
    let parameters = Parameters::read(query.as_deref(), PARAMETERS)?;
    app.wait_for(&parameters).await?;
    answer(&app, &token).await.map(Json)
}

/// The entry named by `token`; the page asks the same way.
pub(crate) async fn answer(app: &App, token: &str) -> Result<EntryAnswer, Problem> {
    let token =
        token.parse().map_err(|error: tidemark_wal::ParseTokenError| Problem::invalid("token", error.to_string()))?;
    app.search().entry(token).await.map_err(|error| app.problem(error))
}
