//! `GET /v1/entities/{key}`.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};

use super::{
    app::App,
    parameters::Parameters,
    problem::{Problem, ProblemDetails},
};
use tidemark_search::api::{EntityAnswer, EntityRequest};

const PARAMETERS: &[&str] = &["size", "cursor", "min_token", "wait"];

/// An entity, its current operation and its history, the newest first.
#[utoipa::path(
    get,
    path = "/v1/entities/{*key}",
    tag = "entities",
    params(
        ("key" = String, Path, description = "the entity's key, slashes included, as `label/{repo}/{label}`"),
        ("size" = Option<usize>, Query, description = "operations of a page, 1 to 1000; 20 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("min_token" = Option<String>, Query, description = "wait until this entry is visible"),
        ("wait" = Option<u64>, Query, description = "for so many seconds at most, 0 to 20; 5 by default"),
    ),
    responses(
        (status = 200, description = "the entity", body = EntityAnswer),
        (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "not in the index", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the page is gone; start again", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn entity(
    State(app): State<App>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<EntityAnswer>, Problem> {
    let parameters = Parameters::read(query.as_deref(), PARAMETERS)?;
    answer(&app, &key, &parameters).await.map(Json)
}

/// The history of the entity named by `key`; the page asks the same way.
pub(crate) async fn answer(app: &App, key: &str, parameters: &Parameters) -> Result<EntityAnswer, Problem> {
    let request = EntityRequest {
        key: key.to_owned(),
        size: parameters.size()?,
        cursor: parameters.one("cursor")?.map(str::to_owned),
    };
    app.wait_for(parameters).await?;
    app.search().entity(request).await.map_err(|error| app.problem_of_page(error, parameters))
}
