//! `GET /v1/changes`: what was recorded, in the order of publication, as JSON, as a stream of events or over a WebSocket.

use std::time::Duration;

use axum::{
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, header},
    response::Response,
};
use futures::FutureExt as _;
use serde::{
    Deserialize,
    de::{IntoDeserializer as _, value},
};
use utoipa::{
    IntoParams, PartialSchema as _,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    app::AppState,
    arguments::{ChangesLimit, ChangesWait, EventIdText, FeedStartText, QueryArg},
    event_stream::event_stream,
    extract::{QueryArgs, QueryString},
    feed_client::{FeedAnswer, FeedSlot, MAX_SHARE_WAIT},
    feed_socket::feed_socket,
    large_json::{json_bytes, json_response},
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedStart};

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";
/// The header with the position of a client that connects again.
const LAST_EVENT_ID: &str = "Last-Event-ID";

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

/// The headers of a request for changes.
#[derive(Clone, Debug)]
struct ChangesHeaders {
    /// The id of the last event that a client has which connects again.
    last_event_id: EventIdText,
}

impl IntoParams for ChangesHeaders {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let about = "The id of the last event that a client has which connects again: what follows it is sent, whatever `from` says. An answer \
                     that is no stream ignores it.";
        let header = ParameterBuilder::new().name(LAST_EVENT_ID).parameter_in(ParameterIn::Header);
        let header = header.required(Required::False).description(Some(about)).schema(Some(EventIdText::schema()));
        vec![header.build()]
    }
}

impl ChangesHeaders {
    fn read(headers: &HeaderMap) -> Result<Self, HttpProblem> {
        let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(Self { last_event_id: EventIdText(None) }) };
        let text = String::from_utf8_lossy(value.as_bytes());
        let read = EventIdText::deserialize((&*text).into_deserializer());
        let read = read.map_err(|error: value::Error| {
            HttpProblem::invalid(LAST_EVENT_ID, format!("header \"{LAST_EVENT_ID}\": {error}; start again without it"))
        });
        read.map(|last_event_id| Self { last_event_id })
    }
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
/// stops, when its client has left an answer untaken for a minute, and after an event `problem`, whose data is the problem. A WebSocket
/// (`Upgrade: websocket`, subprotocol `tidemark.changes.v1`) sends the changes for which its client has granted credits, and the client
/// acknowledges them. 4096 clients are served at once. An answer that its client has not taken within a minute is cut off.
/// After a restore the records have other seqs: earlier positions are answered with 410, and `restart` says where to start.
#[utoipa::path(
    get,
    path = "/v1/changes",
    tag = "changes",
    params(ChangesArgs, ChangesHeaders),
    responses(
        (status = 101, description = "the connection is a WebSocket of the subprotocol `tidemark.changes.v1`"),
        (status = 200, description = "the changes; with `Accept: text/event-stream` as events", content(
            (ChangesAnswer = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 400, description = "`q` is no query of the language, `from` or `Last-Event-ID` is a position of another log or index, or lies in the future, or a parameter is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 403, description = "a page of another origin opens a WebSocket", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the position is of a generation that was replaced by one with other seqs; `restart` says where to start", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded, by clients or by what is on its way to them, or not ready", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn changes(
    State(app): State<AppState>,
    headers: HeaderMap,
    slot: FeedSlot,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    QueryArgs { args, query, .. }: QueryArgs<ChangesArgs>,
) -> Result<Response, HttpProblem> {
    let mut request = ChangesRequest::from(args);
    let ChangesHeaders { last_event_id: EventIdText(last) } = ChangesHeaders::read(&headers)?;
    if wants_socket(&headers) {
        let upgrade = upgrade.map_err(|error| HttpProblem::invalid(header::UPGRADE.as_str(), error.to_string()))?;
        return feed_socket(app, upgrade, request, query, slot).await;
    }
    if wants_events(&headers) {
        let goes_on = last.is_some();
        request.start = last.map_or(request.start, FeedStart::After);
        let events = event_stream(app, request, query, slot).await;
        return events.map_err(|problem| if goes_on { problem.in_header("from", LAST_EVENT_ID) } else { problem });
    }
    let answer = waited_answer(&app, request, &query).await?;
    let (body, taken) = answer.share.hold(json_bytes(answer.changes).await?);
    tokio::spawn(async move {
        slot.takes(taken.wait().map(|()| true)).await;
    });
    Ok(json_response(body))
}

/// The changes that there are, or those that come within the wait.
async fn waited_answer(
    app: &AppState,
    request: ChangesRequest,
    query: &QueryString,
) -> Result<FeedAnswer, HttpProblem> {
    let present = app.present_changes(&request, query).await?;
    let FeedAnswer { changes: answer, share } = present;
    if !answer.changes.is_empty() || answer.more || request.wait.is_zero() {
        return Ok(FeedAnswer { changes: answer, share });
    }
    // One that waits holds nothing.
    drop(share);
    let (wait, next) = (request.wait, ChangesRequest { start: FeedStart::After(answer.next), ..request });
    let waiting = app.next_changes(next.clone(), wait, MAX_SHARE_WAIT, query);
    let waited = app.stop().run_until_cancelled(waiting).await;
    match waited {
        Some(waited) => waited,
        // The process stops: what there is.
        None => app.present_changes(&next, query).await,
    }
}

fn wants_socket(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case(EVENT_STREAM))
}
