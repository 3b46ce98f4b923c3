//! The four pages: each asks what the API asks, and renders the answer or the problem.

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use futures::future::OptionFuture;
use maud::Markup;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    entity, entry,
    frame::{self, PageFrame},
    relatives, results,
    search_url::SearchUrl,
    state,
};
use crate::http::{
    app::AppState,
    arguments::{HistoryPageSize, MinTokenArgs, TokenText},
    entities::{self, HistoryArgs},
    entries,
    extract::{NoArgs, QueryArgs, QueryString},
    lineage,
    problem::HttpProblem,
    search::{self, SearchArgs},
};

/// The routes of the page.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/", get(search_page))
        .route("/entry", get(entry_page))
        .route("/entity", get(entity_page))
        .route("/status", get(status_page))
}

/// The parameters of the page of an entry.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EntryPageArgs {
    #[param(inline)]
    token: TokenText,
}

/// The parameters of the page of an entity.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EntityPageArgs {
    key: String,
    #[param(inline)]
    size: Option<HistoryPageSize>,
    cursor: Option<String>,
}

async fn search_page(State(app): State<AppState>, RawQuery(query): RawQuery) -> Response {
    let query = match QueryString::read(query.as_deref()) {
        Ok(query) => query,
        Err(problem) => return failed(&app, &problem),
    };
    let search_url = SearchUrl::of(&query);
    let frame = PageFrame::new(&app, "Search").asking(&search_url);
    let answer = async {
        let (args, wait) = search_url.asked_of(&query).parse::<SearchArgs, MinTokenArgs>()?;
        search::answer(&app, args.highlighted(), wait, &query).await
    };
    match answer.await {
        Ok(answer) => rendered(&frame, &results::found(&answer, &search_url, app.status().as_ref())),
        Err(problem) => {
            let body = frame.render(&results::refused(&problem, &search_url));
            (problem.status(), Html(body)).into_response()
        }
    }
}

async fn entry_page(State(app): State<AppState>, query: Result<QueryArgs<EntryPageArgs>, HttpProblem>) -> Response {
    let answer = async {
        let QueryArgs { args: EntryPageArgs { token: TokenText(token) }, .. } = query?;
        entries::answer(&app, token).await
    };
    match answer.await {
        Ok(answer) => rendered(&PageFrame::new(&app, "Entry"), &entry::render(&answer)),
        Err(problem) => failed(&app, &problem),
    }
}

async fn entity_page(State(app): State<AppState>, query: Result<QueryArgs<EntityPageArgs>, HttpProblem>) -> Response {
    let answer = async {
        let QueryArgs { args: EntityPageArgs { key, size, cursor }, query, .. } = query?;
        let mut entity = entities::history(&app, key, HistoryArgs { size, cursor }, &query).await?;
        let relatives = relatives::of_entity(&entity.entity).map(|request| lineage::answer(&app, request));
        let check = app.live_descriptors().check_entity(&mut entity);
        let (lineage, ()) = tokio::join!(OptionFuture::from(relatives), check);
        Ok((entity, lineage))
    };
    match answer.await {
        Ok((entity, lineage)) => rendered(&PageFrame::new(&app, "History"), &entity::render(&entity, lineage.as_ref())),
        Err(problem) => failed(&app, &problem),
    }
}

async fn status_page(State(app): State<AppState>, query: Result<QueryArgs<NoArgs>, HttpProblem>) -> Response {
    if let Err(problem) = query {
        return failed(&app, &problem);
    }
    let status = app.status();
    rendered(&PageFrame::new(&app, "Status"), &state::render(status.as_ref()))
}

fn rendered(frame: &PageFrame, body: &Markup) -> Response {
    Html(frame.render(body)).into_response()
}

fn failed(app: &AppState, problem: &HttpProblem) -> Response {
    let body = PageFrame::new(app, "Problem").render(&frame::problem(problem));
    (problem.status(), Html(body)).into_response()
}
