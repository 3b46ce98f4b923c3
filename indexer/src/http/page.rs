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

pub(crate) use assets::asset;

use super::{app::App, entities, entries, parameters::Parameters, problem::Problem, search};
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

async fn search_page(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let parameters = match Parameters::read(query.as_deref(), search::PARAMETERS) {
        Ok(parameters) => parameters,
        Err(problem) => return failed(&app, &problem),
    };
    let question = Question::of(&parameters);
    let frame = Frame::new(&app, "Search").asking(&question);
    match search::answer(&app, &parameters).await {
        Ok(answer) => rendered(&frame, &results::found(&answer, &question, app.status().as_ref())),
        Err(problem) => {
            let body = frame.render(&results::refused(&problem, &question));
            (problem.status(), Html(body)).into_response()
        }
    }
}

async fn entry_page(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let answer = async {
        let parameters = Parameters::read(query.as_deref(), &["token"])?;
        entries::answer(&app, parameters.required("token")?).await
    };
    match answer.await {
        Ok(answer) => rendered(&Frame::new(&app, "Entry"), &entry::shown(&answer)),
        Err(problem) => failed(&app, &problem),
    }
}

async fn entity_page(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let answer = async {
        let parameters = Parameters::read(query.as_deref(), &["key", "size", "cursor"])?;
        entities::answer(&app, parameters.required("key")?, &parameters).await
    };
    match answer.await {
        Ok(answer) => rendered(&Frame::new(&app, "History"), &entity::shown(&answer)),
        Err(problem) => failed(&app, &problem),
    }
}

async fn status_page(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    if let Err(problem) = Parameters::read(query.as_deref(), &[]) {
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
