//! `GET /v1/entities/{key}`.

use axum::{
    extract::{Path, State},
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    app::AppState,
    arguments::{HistoryPageSize, MinTokenArgs},
    extract::{QueryArgs, QueryString},
    large_json::large_json,
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::{EntityAnswer, EntityRequest};

/// The parameters of a history.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryArgs {
    /// How many operations a page has.
    #[param(inline)]
    pub(crate) size: Option<HistoryPageSize>,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
}

/// An entity, its current operation and its history, the newest first.
#[utoipa::path(
    get,
    path = "/v1/entities/{*key}",
    tag = "entities",
    params(
        ("key" = String, Path, description = "the entity's key, slashes included, as `label/{repo}/{label}`", example = "label/models/v1"),
        HistoryArgs,
        MinTokenArgs,
    ),
    responses(
        (status = 200, description = "the entity", body = EntityAnswer),
        (status = 400, description = "`cursor` was not given out for this entity, or a parameter is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "not in the index", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the page is gone; start again", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn entity(
    State(app): State<AppState>,
    Path(key): Path<String>,
    QueryArgs { args, wait, query }: QueryArgs<HistoryArgs, MinTokenArgs>,
) -> Result<Response, HttpProblem> {
    app.wait_for(wait).await?;
    let mut entity = history(&app, key, args, &query).await?;
    app.live_descriptors().check_entity(&mut entity).await;
    large_json(entity).await
}

/// The history of the entity named by `key`, without a look at the stores; the page asks the same way.
pub(crate) async fn history(
    app: &AppState,
    key: String,
    args: HistoryArgs,
    query: &QueryString,
) -> Result<EntityAnswer, HttpProblem> {
    let HistoryArgs { size, cursor } = args;
    let size = size.unwrap_or_default().page_size();
    let answer = app.search().entity(EntityRequest { key, size, cursor }).await;
    answer.map_err(|error| app.problem_of_page(error, query))
}
