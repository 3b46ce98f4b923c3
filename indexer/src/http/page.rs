//! The page: search, entries, entities and the state of the index, rendered here, in plain HTML.
//!
//! It takes the parameters of the API and asks the same code. Everything works without a script; the script adds a live
//! refresh and the keyboard. All of its addresses are one level deep and relative, and nothing comes from another host.

mod assets;
mod entity;
mod entry;
mod facets;
mod frame;
mod help;
mod histogram;
mod hit;
mod json;
mod question;
mod results;
mod state;
mod words;

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use maud::Markup;
use serde::Deserialize;
use utoipa::IntoParams;

pub(crate) use assets::asset;

use super::{
    app::App,
    arguments::{HistoryPageSize, TokenText, WaitArgs},
    entities::{self, HistoryArgs},
    entries,
    extract::{NoArgs, Query, QueryString},
    problem::Problem,
    search::{self, SearchArgs},
};
use frame::Frame;
use question::Question;

/// The routes of the page.
pub(crate) fn routes() -> Router<App> {
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

async fn search_page(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let query = match QueryString::read(query.as_deref()) {
        Ok(query) => query,
        Err(problem) => return failed(&app, &problem),
    };
    let question = Question::of(&query);
    let frame = Frame::new(&app, "Search").asking(&question);
    let answer = async {
        let (args, wait) = query.parse::<SearchArgs, WaitArgs>()?;
        search::answer(&app, args, wait, &query).await
    };
    match answer.await {
        Ok(answer) => rendered(&frame, &results::found(&answer, &question, app.status().as_ref())),
        Err(problem) => {
            let body = frame.render(&results::refused(&problem, &question));
            (problem.status(), Html(body)).into_response()
        }
    }
}

async fn entry_page(State(app): State<App>, query: Result<Query<EntryPageArgs>, Problem>) -> Response {
    let answer = async {
        let Query { args: EntryPageArgs { token: TokenText(token) }, .. } = query?;
        entries::answer(&app, token).await
    };
    match answer.await {
        Ok(answer) => rendered(&Frame::new(&app, "Entry"), &entry::shown(&answer)),
        Err(problem) => failed(&app, &problem),
    }
}

async fn entity_page(State(app): State<App>, query: Result<Query<EntityPageArgs>, Problem>) -> Response {
    let answer = async {
        let Query { args: EntityPageArgs { key, size, cursor }, query, .. } = query?;
        entities::answer(&app, key, HistoryArgs { size, cursor }, &query).await
    };
    match answer.await {
        Ok(answer) => rendered(&Frame::new(&app, "History"), &entity::shown(&answer)),
        Err(problem) => failed(&app, &problem),
    }
}

async fn status_page(State(app): State<App>, query: Result<Query<NoArgs>, Problem>) -> Response {
    if let Err(problem) = query {
        return failed(&app, &problem);
    }
    let status = app.status();
    rendered(&Frame::new(&app, "Status"), &state::shown(status.as_ref()))
}

fn rendered(frame: &Frame, body: &Markup) -> Response {
    Html(frame.render(body)).into_response()
}

fn failed(app: &App, problem: &Problem) -> Response {
    let body = Frame::new(app, "Problem").render(&frame::problem(problem));
    (problem.status(), Html(body)).into_response()
}
