//! Changes over a WebSocket, whose client says how many it takes and acknowledges them. `docs/changes.md` specifies the messages.
//!
//! One task a socket asks for the next changes when there is room in the client's window. It keeps the positions of what is not
//! acknowledged, not the changes: a client that connects again has them sent again from where it was.

use std::{collections::VecDeque, convert::Infallible, future::ready, time::Duration};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    http::HeaderValue,
    response::Response,
};
use futures::{FutureExt as _, SinkExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{spawn_blocking, unconstrained},
    time::{Instant, sleep_until, timeout},
};

use super::{
    app::AppState,
    extract::QueryString,
    feed_window::{FeedWindow, MAX_CREDITS, UnsentPosition},
    problem::{HttpProblem, ProblemDetails},
    sent_checkpoints::SentCheckpoints,
};
use tidemark_search::api::{
    ChangeRecord, ChangesAnswer, ChangesRequest, FeedPosition, FeedStart, MAX_CHANGES, PageSize,
};

/// The subprotocol that a client names, and with it the version of the messages.
pub(super) const SUBPROTOCOL: &str = "tidemark.changes.v1";
/// The largest message of a client, in bytes: a thousand positions.
const MAX_MESSAGE: usize = 64 * 1024;
/// How often a client is pinged, and how long a search waits for a change.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a client may be silent, its answers to pings included, and how long it may take nothing of what is sent.
const MAX_SILENCE: Duration = Duration::from_mins(1);
/// How long a client that has changes may acknowledge none.
const MAX_ACKNOWLEDGEMENT_TIME: Duration = Duration::from_mins(5);
/// So many messages of a client are read at most before it is judged.
const MAX_WAITING_MESSAGES: usize = 64;
/// How long a connection lasts. Clients connect again: to other replicas, and with a token that is still good.
const MAX_CONNECTION_TIME: Duration = Duration::from_hours(1);
/// How long the client may take to confirm the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of the reason of an end, as the protocol has it.
const MAX_CLOSE_REASON: usize = 123;

/// A message of a client.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClientMessage {
    /// So many changes may be unacknowledged from now on.
    Credits(u32),
    /// Everything up to this position is acknowledged.
    Ack(FeedPosition),
    /// The changes at these positions are acknowledged, and none beside them.
    AckEach(Vec<FeedPosition>),
}

/// A message of the service.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ServerMessage<'a> {
    /// A change. It takes one credit until it is acknowledged.
    Change(&'a ChangeRecord),
    /// The position after records that the query leaves out.
    Next(&'a FeedPosition),
    /// Up to here everything is acknowledged: where a client goes on that connects again.
    Acknowledged(&'a FeedPosition),
    /// Why the connection ends.
    Problem(&'a ProblemDetails),
}

/// Why the service ends a connection.
#[derive(Debug, thiserror::Error)]
enum SocketEnd {
    #[error("the service stops; connect again")]
    Stopping,
    #[error("the connection has lasted an hour; connect again")]
    TimeUp,
    #[error("the message is none of {SUBPROTOCOL}: {0}")]
    Misunderstood(String),
    #[error(transparent)]
    NeverSent(#[from] UnsentPosition),
    #[error("nothing was heard of the client for a minute; connect again")]
    Silent,
    #[error("nothing was acknowledged for five minutes; connect again")]
    NotAcknowledging,
    #[error("{}", .0.detail)]
    Problem(HttpProblem),
    /// The client has gone, or takes nothing.
    #[error("the client has gone")]
    Gone,
}

impl SocketEnd {
    /// The code of the closing message: below 4000 as RFC 6455 has them, else 4000 and the HTTP status that says the same.
    fn close_code(&self) -> Option<u16> {
        match self {
            Self::Stopping | Self::TimeUp => Some(1001),
            Self::Misunderstood(_) => Some(4400),
            Self::Silent | Self::NotAcknowledging => Some(4408),
            Self::NeverSent(_) => Some(4409),
            Self::Problem(problem) => Some(4000 + problem.status),
            Self::Gone => None,
        }
    }
}

/// What waits for the changes before it, and these for room.
enum FeedItem {
    Change(FeedPosition, Utf8Bytes),
    Checkpoint(Utf8Bytes),
    Pass(FeedPosition),
}

/// The answer to `request` over a WebSocket. What fails at once is an answer with a status. `slot` is held until the connection ends.
pub(super) async fn feed_socket(
    app: AppState,
    upgrade: WebSocketUpgrade,
    request: ChangesRequest,
    query: QueryString,
    slot: OwnedSemaphorePermit,
) -> Result<Response, HttpProblem> {
    let mut upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    if !upgrade.requested_protocols().any(|offered| offered == SUBPROTOCOL) {
        let detail = format!("a WebSocket of changes speaks \"{SUBPROTOCOL}\"; name that subprotocol");
        return Err(HttpProblem::invalid("Sec-WebSocket-Protocol", detail));
    }
    upgrade.set_selected_protocol(HeaderValue::from_static(SUBPROTOCOL));
    let request = ChangesRequest { wait: Duration::ZERO, ..request };
    let first = app.search().changes(request.clone()).await;
    let first = first.map_err(|error| app.problem_of_changes(error, &query))?;
    // The process does not end before the client was told.
    let running = app.streams().token();
    Ok(upgrade.on_upgrade(move |socket| async move {
        FeedSocket::new(app, request, query, &first).run(socket, first).await;
        drop((slot, running));
    }))
}

/// One connection.
struct FeedSocket {
    app: AppState,
    request: ChangesRequest,
    query: QueryString,
    window: FeedWindow,
    queue: VecDeque<FeedItem>,
    /// The checkpoints that the client has.
    sent: SentCheckpoints,
    /// Whether the client was sent a position.
    has_position: bool,
    /// When something was heard of the client.
    heard: Instant,
    /// Since when it has something to acknowledge and acknowledged nothing of it.
    awaited: Option<Instant>,
}

impl FeedSocket {
    fn new(app: AppState, request: ChangesRequest, query: QueryString, first: &ChangesAnswer) -> Self {
        let begin = first.changes.first().map_or(first.next.clone(), |change| FeedPosition {
            seq: change.seq.saturating_sub(1),
            ..change.position.clone()
        });
        let (window, queue) = (FeedWindow::new(begin), VecDeque::new());
        let sent = SentCheckpoints::default();
        Self { app, request, query, window, queue, sent, has_position: false, heard: Instant::now(), awaited: None }
    }

    /// Serves the client until one of both ends the connection.
    async fn run(mut self, mut socket: WebSocket, first: ChangesAnswer) {
        let Err(end) = self.serve(&mut socket, first).await;
        let Some(code) = end.close_code() else { return };
        let mut reason = end.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_CLOSE_REASON));
        tracing::debug!(code, reason, "ending a WebSocket of changes");
        let closing = async {
            if let SocketEnd::Problem(problem) = &end {
                socket.feed(message(&ServerMessage::Problem(problem))?).await.ok()?;
            }
            socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await.ok()?;
            // What the client still sends would make the system drop what it has not read yet.
            while let Some(Ok(_)) = socket.recv().await {}
            Some(())
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }

    async fn serve(&mut self, socket: &mut WebSocket, first: ChangesAnswer) -> Result<Infallible, SocketEnd> {
        let (app, ends) = (self.app.clone(), Instant::now() + MAX_CONNECTION_TIME);
        let mut ping_due = Instant::now() + PING_INTERVAL;
        let mut answer: Option<BoxFuture<'_, Result<ChangesAnswer, HttpProblem>>> = None;
        self.enqueue(first).await?;
        loop {
            let sent = app.stop().run_until_cancelled(self.send_what_fits(socket)).await;
            sent.ok_or(SocketEnd::Stopping)??;
            let received = app.stop().run_until_cancelled(self.receive_waiting(socket)).await;
            let has_received = received.ok_or(SocketEnd::Stopping)??;
            if answer.is_none() && self.queue.is_empty() && self.window.room() > 0 {
                answer = Some(next_answer(&app, self.request(), self.query.clone()).boxed());
            }
            let silent_at = self.heard + MAX_SILENCE;
            let unacknowledged_at = self.awaited.unwrap_or(ends) + MAX_ACKNOWLEDGEMENT_TIME;
            tokio::select! {
                // Ends first, and what was found before what the client says: it cannot hold either back by talking.
                biased;
                () = app.stop().cancelled() => return Err(SocketEnd::Stopping),
                () = sleep_until(ends) => return Err(SocketEnd::TimeUp),
                () = sleep_until(silent_at) => return Err(SocketEnd::Silent),
                () = sleep_until(unacknowledged_at) => return Err(SocketEnd::NotAcknowledging),
                () = sleep_until(ping_due) => {
                    send(socket, Message::Ping(Bytes::new())).await?;
                    ping_due = Instant::now() + PING_INTERVAL;
                }
                found = pending(&mut answer) => {
                    answer = None;
                    let found = found.map_err(SocketEnd::Problem)?;
                    self.enqueue(found).await?;
                }
                // What it said may have made room.
                () = ready(()), if has_received => {}
                received = socket.recv() => {
                    let received = received.and_then(Result::ok).ok_or(SocketEnd::Gone)?;
                    self.heard = Instant::now();
                    self.receive(socket, received).await?;
                }
            }
        }
    }

    /// What is asked for next: no more than there is room for.
    fn request(&self) -> ChangesRequest {
        let start = FeedStart::After(self.window.given().clone());
        let limit = PageSize::new(self.window.room().clamp(1, MAX_CHANGES)).unwrap_or_default();
        ChangesRequest { start, limit, wait: PING_INTERVAL, ..self.request.clone() }
    }

    async fn enqueue(&mut self, mut answer: ChangesAnswer) -> Result<(), SocketEnd> {
        self.sent.retain_new(&mut answer);
        // Up to a megabyte.
        let items = spawn_blocking(move || items(answer)).await.ok().flatten();
        self.queue.extend(items.ok_or(SocketEnd::Problem(HttpProblem::internal()))?);
        Ok(())
    }

    async fn send_what_fits(&mut self, socket: &mut WebSocket) -> Result<(), SocketEnd> {
        let mut has_sent = false;
        while let Some(item) = self.queue.pop_front() {
            match item {
                FeedItem::Change(position, text) if !self.window.has_room_for(text.len()) => {
                    self.queue.push_front(FeedItem::Change(position, text));
                    break;
                }
                FeedItem::Change(position, text) => {
                    self.has_position = true;
                    self.window.send(position, text.len());
                    self.awaited.get_or_insert_with(Instant::now);
                    feed(socket, Message::Text(text)).await?;
                }
                FeedItem::Checkpoint(text) => feed(socket, Message::Text(text)).await?,
                // It has waited in vain, and the client knows where it is.
                FeedItem::Pass(position) if self.has_position && position == *self.window.given() => continue,
                FeedItem::Pass(position) => {
                    let text = message(&ServerMessage::Next(&position)).ok_or(SocketEnd::Gone)?;
                    self.has_position = true;
                    self.window.pass(position);
                    feed(socket, text).await?;
                }
            }
            has_sent = true;
        }
        if has_sent { flush(socket).await } else { Ok(()) }
    }

    /// Hears what the client has said while it was sent something. Gives whether it has said anything.
    async fn receive_waiting(&mut self, socket: &mut WebSocket) -> Result<bool, SocketEnd> {
        let mut has_received = false;
        for _ in 0..MAX_WAITING_MESSAGES {
            let Some(received) = unconstrained(socket.recv()).now_or_never() else { break };
            let received = received.and_then(Result::ok).ok_or(SocketEnd::Gone)?;
            (self.heard, has_received) = (Instant::now(), true);
            self.receive(socket, received).await?;
        }
        Ok(has_received)
    }

    /// What a message of the client changes.
    async fn receive(&mut self, socket: &mut WebSocket, received: Message) -> Result<(), SocketEnd> {
        let text = match received {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(SocketEnd::Misunderstood("it is binary".to_owned())),
            // The library answers both.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return Ok(()),
        };
        let said = serde_json::from_str(&text).map_err(|error| SocketEnd::Misunderstood(error.to_string()))?;
        let (before, unacknowledged) = (self.window.acknowledged().clone(), self.window.unacknowledged());
        match said {
            ClientMessage::Credits(credits) if credits > MAX_CREDITS => {
                return Err(SocketEnd::Misunderstood(format!("{credits} credits are more than {MAX_CREDITS}")));
            }
            ClientMessage::Credits(credits) => {
                self.window.set_credits(credits);
                return Ok(());
            }
            ClientMessage::Ack(position) => self.window.acknowledge(&position)?,
            ClientMessage::AckEach(positions) => {
                positions.iter().try_for_each(|position| self.window.acknowledge_one(position))?;
            }
        }
        // One that comes again is none: it does not keep the connection.
        if self.window.unacknowledged() < unacknowledged {
            self.awaited = (self.window.unacknowledged() > 0).then(Instant::now);
        }
        let acknowledged = self.window.acknowledged();
        if *acknowledged == before {
            return Ok(());
        }
        send(socket, message(&ServerMessage::Acknowledged(acknowledged)).ok_or(SocketEnd::Gone)?).await
    }
}

async fn next_answer(
    app: &AppState,
    request: ChangesRequest,
    query: QueryString,
) -> Result<ChangesAnswer, HttpProblem> {
    app.search().changes(request).await.map_err(|error| app.problem_of_changes(error, &query))
}

/// What the future gives; nothing ever, where there is none.
async fn pending<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The messages of an answer. `None` if a change cannot be written: what follows it must not be sent without it.
fn items(answer: ChangesAnswer) -> Option<Vec<FeedItem>> {
    let mut items = Vec::new();
    let mut checkpoints = answer.checkpoints.iter().peekable();
    for change in &answer.changes {
        while let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.position.seq < change.seq) {
            items.push(FeedItem::Checkpoint(text(checkpoint)?));
        }
        items.push(FeedItem::Change(change.position.clone(), text(&ServerMessage::Change(change))?));
    }
    for checkpoint in checkpoints {
        items.push(FeedItem::Checkpoint(text(checkpoint)?));
    }
    if answer.changes.last().is_none_or(|last| last.position != answer.next) {
        items.push(FeedItem::Pass(answer.next));
    }
    Some(items)
}

/// Plain data, which is always JSON.
fn text(content: &impl Serialize) -> Option<Utf8Bytes> {
    let written = serde_json::to_string(content);
    written.map(Utf8Bytes::from).inspect_err(|error| tracing::error!(%error, "a message cannot be written")).ok()
}

fn message(content: &ServerMessage<'_>) -> Option<Message> {
    text(content).map(Message::Text)
}

/// Sends at once.
async fn send(socket: &mut WebSocket, message: Message) -> Result<(), SocketEnd> {
    taken(socket.send(message)).await
}

/// Sends with what follows.
async fn feed(socket: &mut WebSocket, message: Message) -> Result<(), SocketEnd> {
    taken(socket.feed(message)).await
}

async fn flush(socket: &mut WebSocket) -> Result<(), SocketEnd> {
    taken(socket.flush()).await
}

/// Whether the client took it in time.
async fn taken(sending: impl Future<Output = Result<(), axum::Error>>) -> Result<(), SocketEnd> {
    match timeout(MAX_SILENCE, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(SocketEnd::Gone),
    }
}
