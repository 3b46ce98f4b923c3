//! `GET /v1/entities/bundle/{repo}/{bundle}/lineage`.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    app::AppState,
    arguments::{LineageDepthArg, MinTokenArgs},
    extract::QueryArgs,
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::{LineageAnswer, LineageRequest};

/// The parameters of a lineage.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LineageArgs {
    /// How many generations up and down.
    #[param(inline)]
    depth: Option<LineageDepthArg>,
}

/// The bundles that a bundle was made from, over its `parents` and theirs, and those that were made from it.
///
/// At most 200 bundles of the same repository, the near ones first; `truncated` says that there are more. A parent that is not in
/// the index is shown as not `known`.
#[utoipa::path(
    get,
    path = "/v1/entities/bundle/{repo}/{bundle}/lineage",
    tag = "entities",
    params(
        ("repo" = String, Path, description = "name of the repository"),
        ("bundle" = String, Path, description = "id of the bundle"),
        LineageArgs,
        MinTokenArgs,
    ),
    responses(
        (status = 200, description = "the lineage", body = LineageAnswer),
        (status = 400, description = "a parameter is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "not in the index", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn lineage(
    State(app): State<AppState>,
    Path((repo, bundle)): Path<(String, String)>,
    QueryArgs { args, wait, .. }: QueryArgs<LineageArgs, MinTokenArgs>,
) -> Result<Json<LineageAnswer>, HttpProblem> {
    app.wait_for(wait).await?;
    let request = LineageRequest { repo, bundle, depth: args.depth.unwrap_or_default().lineage_depth() };
    answer(&app, request).await.map(Json)
}

/// The lineage that is asked for; the page asks the same way.
pub(crate) async fn answer(app: &AppState, request: LineageRequest) -> Result<LineageAnswer, HttpProblem> {
    app.search().lineage(request).await.map_err(|error| app.problem(error))
}
