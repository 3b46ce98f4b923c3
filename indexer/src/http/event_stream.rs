//! Changes as server-sent events.
//!
//! One task a stream asks for the next changes when the client has taken the ones before: what is sent is the newest view's, and nothing
//! of an index is held open for a client.

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

use super::{app::AppState, extract::QueryString, problem::HttpProblem, sent_checkpoints::SentCheckpoints};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedCheckpoint, FeedStart, MAX_CHANGES, PageSize};

/// How many answers wait for a client that reads slowly.
const ANSWERS_IN_FLIGHT: usize = 1;
/// How long a client may read nothing.
const MAX_STALL: Duration = Duration::from_mins(1);
/// How often an event is sent where there is no change: proxies close what is silent for a minute.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a stream lasts. Clients connect again: to other replicas, and with a token that is still good.
const MAX_STREAM_TIME: Duration = Duration::from_hours(1);
/// What a client receives first: how many milliseconds it waits before it connects again.
const RETRY_MILLIS: u64 = 2_000;

/// The answer to `request` as events. What fails at once is an answer with a status. `slot` is held until the stream ends.
pub(super) async fn event_stream(
    app: AppState,
    request: ChangesRequest,
    query: QueryString,
    slot: OwnedSemaphorePermit,
) -> Result<Response, HttpProblem> {
    let limit = PageSize::new(MAX_CHANGES).unwrap_or_default();
    let request = ChangesRequest { wait: Duration::ZERO, limit, ..request };
    let first = app.search().changes(request.clone()).await;
    let first = first.map_err(|error| app.problem_of_changes(error, &query))?;
    let (sender, receiver) = mpsc::channel(ANSWERS_IN_FLIGHT);
    let feed = EventFeed { app, request, query, sender, sent: SentCheckpoints::default() };
    // It ends with the receiver, which the answer owns.
    tokio::spawn(async move {
        feed.send_all(first).await;
        drop(slot);
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // nginx holds answers back otherwise.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let events = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|events| (Ok::<Bytes, Infallible>(events), receiver))
    });
    Ok((headers, Body::from_stream(events)).into_response())
}

/// The task of one stream.
struct EventFeed {
    app: AppState,
    request: ChangesRequest,
    query: QueryString,
    sender: mpsc::Sender<Bytes>,
    /// The checkpoints that the client has.
    sent: SentCheckpoints,
}

impl EventFeed {
    /// Sends changes until the client is gone or reads nothing, the process stops, the time is up, or there is a problem.
    async fn send_all(mut self, first: ChangesAnswer) {
        let ends = Instant::now() + MAX_STREAM_TIME;
        let mut answer = first;
        if !self.send(format!("retry: {RETRY_MILLIS}\n\n").into()).await {
            return;
        }
        loop {
            self.request.start = FeedStart::After(answer.next.clone());
            self.request.wait = KEEP_ALIVE_INTERVAL;
            self.sent.retain_new(&mut answer);
            // Up to a megabyte.
            let Ok(Some(events)) = spawn_blocking(move || events(&answer)).await else { return };
            if !self.send(events).await {
                return;
            }
            answer = match self.next(ends).await {
                Some(Ok(answer)) => answer,
                Some(Err(problem)) => {
                    self.send(problem_event(&problem)).await;
                    return;
                }
                None => return,
            };
        }
    }

    /// The next answer; `None` once the client is gone, the process stops, or the time is up.
    async fn next(&self, ends: Instant) -> Option<Result<ChangesAnswer, HttpProblem>> {
        let answer = self.app.search().changes(self.request.clone());
        tokio::select! {
            biased;
            () = self.app.stop().cancelled() => None,
            () = self.sender.closed() => None,
            () = sleep_until(ends) => None,
            answer = answer => Some(answer.map_err(|error| self.app.problem_of_changes(error, &self.query))),
        }
    }

    /// Whether it was taken in time.
    async fn send(&self, events: Bytes) -> bool {
        timeout(MAX_STALL, self.sender.send(events)).await.is_ok_and(|sent| sent.is_ok())
    }
}

/// An event for each change. Where the answer ends with none, only the position of the client moves: an event without data is not one
/// that a client sees. `None` if a change cannot be written: its position must not be sent without it.
fn events(answer: &ChangesAnswer) -> Option<Bytes> {
    let mut text = String::new();
    let mut checkpoints = answer.checkpoints.iter().peekable();
    for change in &answer.changes {
        while let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.position.seq < change.seq) {
            text.push_str(&checkpoint_event(checkpoint)?);
        }
        // Plain data, which is always JSON, on one line.
        let written = serde_json::to_string(change);
        let data = written.inspect_err(|error| tracing::error!(%error, "a change cannot be written")).ok()?;
        let _ = write!(text, "id: {}\ndata: {data}\n\n", change.position);
    }
    for checkpoint in checkpoints {
        text.push_str(&checkpoint_event(checkpoint)?);
    }
    if answer.changes.last().is_none_or(|last| last.position != answer.next) {
        let _ = write!(text, ":\nid: {}\n\n", answer.next);
    }
    Some(text.into())
}

/// It has no id: a client that connects again goes on after the last change, also where the snapshot is an earlier one.
fn checkpoint_event(checkpoint: &FeedCheckpoint) -> Option<String> {
    let data = serde_json::to_string(checkpoint).ok()?;
    Some(format!("event: checkpoint\ndata: {data}\n\n"))
}

fn problem_event(problem: &HttpProblem) -> Bytes {
    let data = serde_json::to_string(&**problem).unwrap_or_default();
    format!("event: problem\ndata: {data}\n\n").into()
}
