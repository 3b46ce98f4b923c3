//! `GET /v1/changes`: what was recorded, in the order of publication, as JSON or as a stream of events.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    app::AppState,
    arguments::{ChangesLimit, ChangesWait, FeedStartText, QueryArg},
    event_stream::event_stream,
    extract::{QueryArgs, quoted},
    large_json::large_json,
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedStart};

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";
/// The header with the position of a client that connects again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The parameters of a feed of changes.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChangesArgs {
    /// Where to start; before the first record by default. A position, as answers have it (`g1:1234` with an optional third part): after
    /// it. A token or a time: before the first record of an entry that is not older. `snapshot:NAME`: after the records of that snapshot.
    /// `now`: after all that is published.
    #[param(inline)]
    from: Option<FeedStartText>,
    /// The query that chooses the changes; empty: everything. It is asked of each record as it was published. The forms:
    #[param(inline)]
    q: Option<QueryArg>,
    /// The most changes of an answer. It may have fewer although more follow. A stream of events ignores it.
    #[param(inline)]
    limit: Option<ChangesLimit>,
    /// The longest wait for a change, in seconds, where there is none yet. A stream of events ignores it.
    #[param(inline)]
    wait: Option<ChangesWait>,
    /// Whether changes have `payload` and `descriptor`.
    payload: Option<bool>,
}

impl From<ChangesArgs> for ChangesRequest {
    fn from(ChangesArgs { from, q, limit, wait, payload }: ChangesArgs) -> Self {
        Self {
            start: from.map_or(FeedStart::Earliest, |FeedStartText(start)| start),
            query: q.unwrap_or_default().0,
            limit: limit.unwrap_or_default().page_size(),
            payload: payload.unwrap_or_default(),
            wait: Duration::from_secs(wait.unwrap_or_default().get()),
        }
    }
}

/// Gives the records of the index in the order in which they were published.
///
/// Each record of the generation comes once, by `seq`, without a gap, and says the same whenever it is read. A correction is a record of
/// its own, which names in `replaces` the one that it corrects. Go on with `from` set to `next`, or to the `position` of any change: the
/// service keeps nothing of its clients. With `Accept: text/event-stream` the changes are sent as they are published: an event each, whose
/// id is its position, so that a client that connects again with `Last-Event-ID` misses none. A stream ends after an hour, when the service
/// stops, when its client reads nothing for a minute, and after an event `problem`, whose data is the problem. 64 clients are served at once.
/// After a restore the records have other seqs: earlier positions are answered with 410, and `restart` says where to start.
#[utoipa::path(
    get,
    path = "/v1/changes",
    tag = "changes",
    params(ChangesArgs),
    responses(
        (status = 200, description = "the changes; with `Accept: text/event-stream` as events", content(
            (ChangesAnswer = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 400, description = "`q` is no query of the language, `from` is a position of another log or lies in the future, or a parameter is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the position is of a generation that was replaced by one with other seqs; `restart` says where to start", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn changes(
    State(app): State<AppState>,
    headers: HeaderMap,
    QueryArgs { args, query, .. }: QueryArgs<ChangesArgs>,
) -> Result<Response, HttpProblem> {
    let slot = app.feed_slot()?;
    let mut request = ChangesRequest::from(args);
    if wants_events(&headers) {
        if let Some(position) = last_event_id(&headers)? {
            request.start = position;
        }
        return Ok(event_stream(app, request, query, slot).await?.into_response());
    }
    let waited = app.stop().run_until_cancelled(app.search().changes(request.clone())).await;
    let answer = match waited {
        Some(answer) => answer,
        // The process stops: what there is.
        None => app.search().changes(ChangesRequest { wait: Duration::ZERO, ..request }).await,
    };
    large_json(answer.map_err(|error| app.problem_of_changes(error, &query))?).await
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case(EVENT_STREAM))
}

/// Where a client goes on that connects again.
fn last_event_id(headers: &HeaderMap) -> Result<Option<FeedStart>, HttpProblem> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    let position = value.to_str().ok().and_then(|text| text.parse().ok());
    let refused = || {
        let text = String::from_utf8_lossy(value.as_bytes());
        let detail = format!("\"{}\" is not a position; send the id of the last event, or leave it out", quoted(&text));
        HttpProblem::invalid("Last-Event-ID", detail)
    };
    position.map(|position| Some(FeedStart::After(position))).ok_or_else(refused)
}
