//! Changes over a WebSocket, whose client says how many it takes and acknowledges them. `docs/changes.md` specifies the messages.
//!
//! One task a socket asks for the next changes when there is room in the client's window. It keeps the positions of what is not
//! acknowledged, not the changes: a client that connects again has them sent again from where it was. What is read and does not fit into the
//! window is kept for a moment, and then read again when there is room: a client that pauses holds no memory.

use std::{collections::VecDeque, convert::Infallible, future::ready, time::Duration};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    http::HeaderValue,
    response::Response,
};
use futures::{FutureExt as _, SinkExt as _, future::BoxFuture};
use tokio::{
    task::{spawn_blocking, unconstrained},
    time::{Instant, sleep_until, timeout},
};

use super::{
    app::AppState,
    extract::QueryString,
    feed_client::{FeedAnswer, FeedSlot, MAX_STALL},
    feed_memory::FeedShare,
    feed_messages::{ClientMessage, FeedItem, SUBPROTOCOL, ServerMessage, items, message},
    feed_window::{FeedWindow, MAX_CREDITS, UnsentPosition},
    problem::HttpProblem,
    sent_checkpoints::SentCheckpoints,
};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedPosition, FeedStart, MAX_CHANGES, PageSize};

/// The largest message of a client, in bytes: a thousand positions.
const MAX_MESSAGE: usize = 64 * 1024;
/// What is read at once of what a client says, and collected before it is sent, in bytes: each connection has the first.
const READ_BUFFER: usize = 4 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;
/// How often a client is pinged, and how long a search waits for a change.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a client may be silent, its answers to pings included.
const MAX_SILENCE: Duration = Duration::from_mins(1);
/// How long a client that takes something may take for all of an answer.
const MAX_SENDING_TIME: Duration = Duration::from_mins(5);
/// How long what was read waits for room in the window.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(10);
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

/// The answer to `request` over a WebSocket. What fails at once is an answer with a status. `slot` is held until the connection ends.
pub(super) async fn feed_socket(
    app: AppState,
    upgrade: WebSocketUpgrade,
    request: ChangesRequest,
    query: QueryString,
    slot: FeedSlot,
) -> Result<Response, HttpProblem> {
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    let mut upgrade = upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(WRITE_BUFFER);
    if !upgrade.requested_protocols().any(|offered| offered == SUBPROTOCOL) {
        let detail = format!("a WebSocket of changes speaks \"{SUBPROTOCOL}\"; name that subprotocol");
        return Err(HttpProblem::invalid("Sec-WebSocket-Protocol", detail));
    }
    upgrade.set_selected_protocol(HeaderValue::from_static(SUBPROTOCOL));
    // There is no credit yet: it says where the first change is.
    let request = ChangesRequest { limit: PageSize::new(1).unwrap_or_default(), ..request };
    let FeedAnswer { changes: first, share } = app.present_changes(&request, &query).await?;
    drop(share);
    // The process does not end before the client was told.
    let running = app.streams().token();
    Ok(upgrade.on_upgrade(move |socket| async move {
        FeedSocket::new(app, request, query, first).run(socket).await;
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
    /// The memory of the queue, and since when it is held.
    share: Option<(FeedShare, Instant)>,
    /// Whether nothing is read until something is acknowledged.
    is_full: bool,
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
    fn new(app: AppState, request: ChangesRequest, query: QueryString, mut first: ChangesAnswer) -> Self {
        // A client that has a change coming needs no position.
        let has_position = !first.changes.is_empty();
        if let Some(change) = first.changes.pop() {
            first.next = FeedPosition { seq: change.seq.saturating_sub(1), ..change.position };
            first.checkpoints.retain(|checkpoint| checkpoint.position.seq < change.seq);
        }
        let (window, mut sent) = (FeedWindow::new(first.next.clone()), SentCheckpoints::default());
        sent.retain_new(&mut first);
        let queue = items(first).unwrap_or_default().into();
        let (share, heard) = (None, Instant::now());
        Self { app, request, query, window, queue, share, is_full: false, sent, has_position, heard, awaited: None }
    }

    /// Serves the client until one of both ends the connection.
    async fn run(mut self, mut socket: WebSocket) {
        let Err(end) = self.serve(&mut socket).await;
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

    async fn serve(&mut self, socket: &mut WebSocket) -> Result<Infallible, SocketEnd> {
        let (app, ends) = (self.app.clone(), Instant::now() + MAX_CONNECTION_TIME);
        let mut ping_due = Instant::now() + PING_INTERVAL;
        let mut answer: Option<BoxFuture<'_, Result<FeedAnswer, HttpProblem>>> = None;
        loop {
            let began = Instant::now();
            let sending = timeout(MAX_SENDING_TIME, self.send_what_fits(socket));
            let sent = app.stop().run_until_cancelled(sending).await;
            sent.ok_or(SocketEnd::Stopping)?.map_err(|_| SocketEnd::Gone)??;
            // While it was sent something it was neither pinged nor heard.
            self.heard += began.elapsed();
            let received = app.stop().run_until_cancelled(self.receive_waiting(socket)).await;
            let has_received = received.ok_or(SocketEnd::Stopping)??;
            if answer.is_none() && self.queue.is_empty() && self.window.room() > 0 && !self.is_full {
                answer = Some(next_answer(&app, self.request(), self.query.clone()).boxed());
            }
            let queue_ends = self.share.as_ref().map_or(ends, |(_, since)| *since + MAX_QUEUE_TIME);
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
                () = sleep_until(queue_ends) => self.drop_queue(),
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
        ChangesRequest { start, limit, ..self.request.clone() }
    }

    async fn enqueue(&mut self, FeedAnswer { mut changes, mut share }: FeedAnswer) -> Result<(), SocketEnd> {
        self.sent.retain_new(&mut changes);
        // Up to a megabyte.
        let items = spawn_blocking(move || items(changes)).await.ok().flatten();
        self.queue.extend(items.ok_or(SocketEnd::Problem(HttpProblem::internal()))?);
        share.resize(self.queue.iter().map(FeedItem::bytes).sum());
        self.share = Some((share, Instant::now()));
        Ok(())
    }

    /// Gives back the memory of what has no room. It is read again when something was acknowledged.
    fn drop_queue(&mut self) {
        for item in self.queue.drain(..) {
            if let FeedItem::Checkpoint(checkpoint, _) = item {
                self.sent.forget(&checkpoint);
            }
        }
        (self.share, self.is_full) = (None, true);
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
                FeedItem::Checkpoint(_, text) => feed(socket, Message::Text(text)).await?,
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
        if has_sent {
            flush(socket).await?;
        }
        if self.queue.is_empty() {
            self.share = None;
        }
        Ok(())
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
                self.is_full = false;
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
            self.is_full = false;
        }
        let acknowledged = self.window.acknowledged();
        if *acknowledged == before {
            return Ok(());
        }
        send(socket, message(&ServerMessage::Acknowledged(acknowledged)).ok_or(SocketEnd::Gone)?).await
    }
}

async fn next_answer(app: &AppState, request: ChangesRequest, query: QueryString) -> Result<FeedAnswer, HttpProblem> {
    app.next_changes(request, PING_INTERVAL, Duration::MAX, &query).await
}

/// What the future gives; nothing ever, where there is none.
async fn pending<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
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
    match timeout(MAX_STALL, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(SocketEnd::Gone),
    }
}
