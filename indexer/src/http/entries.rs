//! `GET /v1/entries/{token}`.

use axum::{
    extract::{Path, State},
    response::Response,
};

use super::{
    app::AppState,
    arguments::{MinTokenArgs, TokenText},
    extract::{NoArgs, QueryArgs},
    large_json::large_json,
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::EntryAnswer;
use tidemark_wal::{ParseTokenError, Token};

/// One entry with its payload, its operations, their descriptors and what their outcomes rest on.
#[utoipa::path(
    get,
    path = "/v1/entries/{token}",
    tag = "entries",
    params(
        ("token" = inline(TokenText), Path, description = "the entry's token"),
        MinTokenArgs,
    ),
    responses(
        (status = 200, description = "the entry", body = EntryAnswer),
        (status = 400, description = "a parameter, the token among them, is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "not in the index", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn entry(
    State(app): State<AppState>,
    Path(token): Path<String>,
    QueryArgs { wait, .. }: QueryArgs<NoArgs, MinTokenArgs>,
) -> Result<Response, HttpProblem> {
    app.wait_for(wait).await?;
    let token = token.parse().map_err(|error: ParseTokenError| HttpProblem::invalid("token", error.to_string()))?;
    large_json(answer(&app, token).await?).await
}

/// The entry named by `token`; the page asks the same way.
pub(crate) async fn answer(app: &AppState, token: Token) -> Result<EntryAnswer, HttpProblem> {
    let mut entry = app.search().entry(token).await.map_err(|error| app.problem(error))?;
    app.live_descriptors().check_entry(&mut entry).await;
    Ok(entry)
}
