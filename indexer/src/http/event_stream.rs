//! Changes as server-sent events.
//!
//! One task a stream asks for the next changes when the client has taken the ones before: what is sent is the newest view's, and nothing
//! of an index is held open for a client, nor any memory while there is no change for it.

use std::{convert::Infallible, fmt::Write as _, pin::pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use super::{
    app::AppState,
    extract::QueryString,
    feed_client::{FeedAnswer, FeedSlot},
    problem::HttpProblem,
    sent_checkpoints::SentCheckpoints,
};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedCheckpoint, FeedStart, MAX_CHANGES, PageSize};

/// How often an event is sent where there is no change: proxies close what is silent for a minute.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long nothing is sent while changes are read, or wait for memory.
const MAX_SILENCE: Duration = Duration::from_secs(20);
/// What is sent then: no event.
const SIGN_OF_LIFE: &[u8] = b":\n\n";
/// How long a stream lasts. Clients connect again: to other replicas, and with a token that is still good.
const MAX_STREAM_TIME: Duration = Duration::from_hours(1);
/// What a client receives first: how many milliseconds it waits before it connects again.
const RETRY_MILLIS: u64 = 2_000;

/// The answer to `request` as events. What fails at once is an answer with a status. `slot` is held until the stream ends.
pub(super) async fn event_stream(
    app: AppState,
    request: ChangesRequest,
    query: QueryString,
    slot: FeedSlot,
) -> Result<Response, HttpProblem> {
    let request = ChangesRequest { limit: PageSize::new(MAX_CHANGES).unwrap_or_default(), ..request };
    let first = app.present_changes(&request, &query).await?;
    let (sender, receiver) = mpsc::channel(1);
    let feed = EventFeed { app, request, query, slot, sender, sent: SentCheckpoints::default() };
    // It ends with the receiver, which the answer owns.
    tokio::spawn(feed.send_all(first));
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
    slot: FeedSlot,
    sender: mpsc::Sender<Bytes>,
    /// The checkpoints that the client has.
    sent: SentCheckpoints,
}

impl EventFeed {
    /// Sends changes until the client is gone or reads nothing, the process stops, the time is up, or there is a problem.
    async fn send_all(mut self, first: FeedAnswer) {
        let ends = Instant::now() + MAX_STREAM_TIME;
        let mut answer = first;
        if !self.send(format!("retry: {RETRY_MILLIS}\n\n").into()).await {
            return;
        }
        loop {
            self.request.start = FeedStart::After(answer.changes.next.clone());
            if self.send_answer(answer).await.is_none() {
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

    /// Sends an answer; `None` unless it was taken in time.
    async fn send_answer(&mut self, FeedAnswer { mut changes, share }: FeedAnswer) -> Option<()> {
        self.sent.retain_new(&mut changes);
        // Up to a megabyte.
        let events = spawn_blocking(move || events(&changes)).await.ok()??;
        let (events, taken) = share.hold(events);
        let sending = async {
            let is_sent = self.sender.send(events).await.is_ok();
            taken.wait().await;
            is_sent
        };
        self.slot.takes(sending).await.then_some(())
    }

    /// The next answer; `None` once the client is gone, the process stops, or the time is up.
    async fn next(&self, ends: Instant) -> Option<Result<FeedAnswer, HttpProblem>> {
        let request = self.request.clone();
        let mut answer = pin!(self.app.next_changes(request, KEEP_ALIVE_INTERVAL, Duration::MAX, &self.query));
        loop {
            tokio::select! {
                biased;
                () = self.app.stop().cancelled() => return None,
                () = self.sender.closed() => return None,
                () = sleep_until(ends) => return None,
                answer = &mut answer => return Some(answer),
                // Where the one before was not taken the client knows as much.
                () = sleep(MAX_SILENCE) => drop(self.sender.try_send(Bytes::from_static(SIGN_OF_LIFE))),
            }
        }
    }

    /// Sends what is small. Whether it was taken in time.
    async fn send(&self, event: Bytes) -> bool {
        self.slot.takes(async { self.sender.send(event).await.is_ok() }).await
    }
}

/// An event for each change. Where the answer ends with none, only the position of the client moves: an event without data is not one
/// that a client sees. `None` if a change cannot be written: its position must not be sent without it.
fn events(answer: &ChangesAnswer) -> Option<Vec<u8>> {
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
    Some(text.into_bytes())
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
