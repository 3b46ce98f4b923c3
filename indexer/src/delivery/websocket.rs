//! A WebSocket: the sink connects, and the receiver says how many changes it takes and acknowledges them. `docs/sinks.md` specifies the
//! messages, which are those of `feed_socket` with the two sides exchanged.
//!
//! The connection outlives a batch. One that fails is given up, and what the receiver has acknowledged of the batch is not sent again.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use parking_lot::Mutex;
use reqwest::{
    Response, StatusCode, Upgraded,
    header::{
        CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
        UPGRADE,
    },
};
use serde::Deserialize;
use tidemark_catalog::ConsumerPosition;
use tidemark_search::api::FeedPosition;
use tidemark_store::error_chain;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    destination::{BatchAnswer, Destination, RecordVerdict},
    http_client::{DestinationClient, HttpDestinationOptions, InvalidDestination, failed, refusal, send},
    record::DeliveryRecord,
};

/// The subprotocol that the sink offers, and with it the version of the messages.
const SUBPROTOCOL: &str = "tidemark.sink.v1";
/// The largest message of a receiver, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// The most credits that a receiver may grant.
const MAX_CREDITS: u32 = 10_000;
/// How many messages of the receiver wait while nothing is delivered.
const MAX_WAITING_MESSAGES: usize = 64;
/// How long the end of a connection may take to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of the reason of an end, as the protocol has it.
const MAX_CLOSE_REASON: usize = 123;

/// A receiver of changes.
pub struct WebSocketDestination {
    client: DestinationClient,
    state: Mutex<SocketState>,
}

#[derive(Default)]
struct SocketState {
    /// The connection of the last batch, if that was delivered.
    connection: Option<ReceiverConnection>,
    /// What the receiver has acknowledged of batches that failed since the last one that was delivered.
    acknowledged: BTreeSet<u64>,
}

/// A message of the receiver.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReceiverMessage {
    /// So many changes may be unacknowledged from now on.
    Credits(u32),
    /// Everything up to this position is acknowledged.
    Ack(FeedPosition),
    /// The changes at these positions are acknowledged, and none beside them.
    AckEach(Vec<FeedPosition>),
}

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
enum ConnectionEnd {
    #[error("the receiver closed the connection with {0}{1}")]
    Closed(u16, String),
    #[error("the connection broke off: {0}")]
    Broken(String),
    #[error("a message of the receiver is none of {SUBPROTOCOL}: {0}")]
    Misunderstood(String),
    #[error("the receiver acknowledged \"{0}\", which was never sent on this connection")]
    NeverSent(FeedPosition),
    #[error("the receiver acknowledged nothing in time")]
    Overdue,
}

impl ConnectionEnd {
    /// What it means for the batch that is on its way.
    fn answer(&self) -> BatchAnswer {
        match self {
            // One of the changes is too big for it: it is found, and the others are delivered.
            Self::Closed(1009, _) => BatchAnswer::Refused { why: self.to_string() },
            _ => failed(self.to_string()),
        }
    }

    /// What the receiver is told, if it is its fault.
    fn close_code(&self) -> Option<u16> {
        match self {
            Self::Closed(..) | Self::Broken(_) => None,
            Self::Misunderstood(_) => Some(4400),
            Self::Overdue => Some(4408),
            Self::NeverSent(_) => Some(4409),
        }
    }
}

impl WebSocketDestination {
    /// The receiver at the URL of `options`, whose scheme is `wss` or `ws`.
    pub fn new(mut options: HttpDestinationOptions) -> Result<Self, InvalidDestination> {
        let scheme = match options.url.scheme() {
            "wss" => "https",
            "ws" => "http",
            other => {
                let why = format!("its scheme is \"{other}\"");
                return Err(InvalidDestination::url(&options.url, why, "use wss://"));
            }
        };
        // Both are schemes that one URL may have in place of the other.
        let _ = options.url.set_scheme(scheme);
        Ok(Self { client: DestinationClient::for_upgrades(options)?, state: Mutex::default() })
    }

    async fn connect(&self) -> Result<ReceiverConnection, BatchAnswer> {
        let key = generate_key();
        let request = self.client.get(self.client.url().clone())?;
        let headers: [(HeaderName, &str); 5] = [
            (CONNECTION, "Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, &key),
            (SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL),
        ];
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = send(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // It is no answer to the changes, which were not sent.
            return Err(match refusal(answer).await {
                BatchAnswer::Refused { why } => failed(why),
                other => other,
            });
        }
        check_handshake(&answer, &key)?;
        let upgraded = answer.upgrade().await.map_err(|error| failed(error_chain(&error.without_url())))?;
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let (sink, stream) = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await.split();
        Ok(ReceiverConnection::new(sink, stream))
    }

    /// The connection of the last batch, if it lives; else another one.
    async fn connection(&self, last: Option<ReceiverConnection>) -> Result<ReceiverConnection, BatchAnswer> {
        if let Some(mut connection) = last
            && connection.catch_up().is_ok()
        {
            return Ok(connection);
        }
        self.connect().await
    }

    async fn deliver_rest(
        &self,
        last: Option<ReceiverConnection>,
        batch: &[DeliveryRecord],
        acknowledged: &mut BTreeSet<u64>,
    ) -> Result<ReceiverConnection, BatchAnswer> {
        let mut connection = self.connection(last).await?;
        let rest = batch.iter().filter(|record| !acknowledged.contains(&record.seq())).collect();
        match connection.deliver(rest, self.client.timeout(), acknowledged).await {
            Ok(()) => Ok(connection),
            Err(end) => {
                connection.close(&end).await;
                Err(end.answer())
            }
        }
    }
}

#[async_trait]
impl Destination for WebSocketDestination {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        // Taken, and put back at the end: where the future is dropped the connection goes with it.
        let SocketState { connection, mut acknowledged } = std::mem::take(&mut *self.state.lock());
        match self.deliver_rest(connection, batch, &mut acknowledged).await {
            Ok(connection) => {
                *self.state.lock() = SocketState { connection: Some(connection), acknowledged: BTreeSet::new() };
                BatchAnswer::Answered(vec![RecordVerdict::Delivered; batch.len()])
            }
            Err(answer) => {
                self.state.lock().acknowledged = acknowledged;
                answer
            }
        }
    }
}

/// Whether what answers speaks the protocol.
fn check_handshake(answer: &Response, key: &str) -> Result<(), BatchAnswer> {
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if header(SEC_WEBSOCKET_ACCEPT) != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(failed("the answer is not that of a WebSocket".to_owned()));
    }
    match header(SEC_WEBSOCKET_PROTOCOL) {
        Some(SUBPROTOCOL) => Ok(()),
        other => Err(failed(format!("the receiver speaks {other:?} and not \"{SUBPROTOCOL}\""))),
    }
}

/// A connection to the receiver.
struct ReceiverConnection {
    sink: SplitSink<WebSocketStream<Upgraded>, Message>,
    messages: mpsc::Receiver<Result<ReceiverMessage, ConnectionEnd>>,
    credits: usize,
    /// What was sent and is not acknowledged.
    unacknowledged: BTreeSet<u64>,
    /// The first and the last change that were sent.
    sent: Option<(ConsumerPosition, ConsumerPosition)>,
    /// Reads, also while nothing is delivered: so pings are answered.
    _reading: AbortOnDropHandle<()>,
}

impl ReceiverConnection {
    fn new(
        sink: SplitSink<WebSocketStream<Upgraded>, Message>,
        stream: SplitStream<WebSocketStream<Upgraded>>,
    ) -> Self {
        let (sender, messages) = mpsc::channel(MAX_WAITING_MESSAGES);
        let reading = AbortOnDropHandle::new(tokio::spawn(read_messages(stream, sender)));
        Self { sink, messages, credits: 0, unacknowledged: BTreeSet::new(), sent: None, _reading: reading }
    }

    /// Takes what the receiver has said since the last batch.
    fn catch_up(&mut self) -> Result<(), ConnectionEnd> {
        let mut none = BTreeSet::new();
        loop {
            match self.messages.try_recv() {
                Ok(message) => drop(self.apply(message?, &mut none)?),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(broken("it has ended")),
            }
        }
    }

    /// Sends the records as the receiver has room for them, and waits until all are acknowledged. Each acknowledgement may take `patience`.
    async fn deliver(
        &mut self,
        mut rest: VecDeque<&DeliveryRecord>,
        patience: Duration,
        acknowledged: &mut BTreeSet<u64>,
    ) -> Result<(), ConnectionEnd> {
        let mut due = Instant::now() + patience;
        loop {
            timeout_at(due, self.send_what_fits(&mut rest)).await.map_err(|_| ConnectionEnd::Overdue)??;
            if rest.is_empty() && self.unacknowledged.is_empty() {
                return Ok(());
            }
            let message = timeout_at(due, self.messages.recv()).await.map_err(|_| ConnectionEnd::Overdue)?;
            let message = message.unwrap_or_else(|| Err(broken("it has ended")))?;
            if self.apply(message, acknowledged)? {
                due = Instant::now() + patience;
            }
        }
    }

    async fn send_what_fits(&mut self, rest: &mut VecDeque<&DeliveryRecord>) -> Result<(), ConnectionEnd> {
        while self.unacknowledged.len() < self.credits {
            let Some(record) = rest.pop_front() else { break };
            let first = self.sent.take().map_or_else(|| record.position.clone(), |(first, _)| first);
            self.sent = Some((first, record.position.clone()));
            self.unacknowledged.insert(record.seq());
            let text = format!("{{\"change\":{}}}", record.json);
            self.sink.feed(Message::text(text)).await.map_err(broken)?;
        }
        self.sink.flush().await.map_err(broken)
    }

    /// Applies a message. Gives whether something was acknowledged that was not before.
    fn apply(&mut self, message: ReceiverMessage, acknowledged: &mut BTreeSet<u64>) -> Result<bool, ConnectionEnd> {
        let before = self.unacknowledged.len();
        match message {
            ReceiverMessage::Credits(credits) if credits > MAX_CREDITS => {
                let why = format!("{credits} credits are more than {MAX_CREDITS}");
                return Err(ConnectionEnd::Misunderstood(why));
            }
            ReceiverMessage::Credits(credits) => self.credits = credits as usize,
            ReceiverMessage::Ack(position) => {
                let after = self.seq_of(position)? + 1;
                let later = self.unacknowledged.split_off(&after);
                acknowledged.extend(std::mem::replace(&mut self.unacknowledged, later));
            }
            ReceiverMessage::AckEach(positions) => {
                for position in positions {
                    let seq = self.seq_of(position)?;
                    // One that is acknowledged twice is no other.
                    if self.unacknowledged.remove(&seq) {
                        acknowledged.insert(seq);
                    }
                }
            }
        }
        Ok(self.unacknowledged.len() < before)
    }

    /// The seq of a position that lies between what was sent on this connection.
    fn seq_of(&self, position: FeedPosition) -> Result<u64, ConnectionEnd> {
        let is_sent = self.sent.as_ref().is_some_and(|(first, last)| {
            (first.seq..=last.seq).contains(&position.seq)
                && (&first.generation..=&last.generation).contains(&&position.generation)
        });
        if is_sent { Ok(position.seq) } else { Err(ConnectionEnd::NeverSent(position)) }
    }

    /// Tells the receiver why the connection ends, if it can be told.
    async fn close(&mut self, end: &ConnectionEnd) {
        let Some(code) = end.close_code() else { return };
        let mut reason = end.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_CLOSE_REASON));
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let _ = timeout(CLOSE_TIMEOUT, self.sink.send(Message::Close(Some(frame)))).await;
    }
}

fn broken(why: impl std::fmt::Display) -> ConnectionEnd {
    ConnectionEnd::Broken(why.to_string())
}

/// Gives what the receiver says until the connection ends.
async fn read_messages(
    mut stream: SplitStream<WebSocketStream<Upgraded>>,
    messages: mpsc::Sender<Result<ReceiverMessage, ConnectionEnd>>,
) {
    loop {
        let message = match stream.next().await {
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(&text).map_err(|error| ConnectionEnd::Misunderstood(error.to_string()))
            }
            Some(Ok(Message::Binary(_))) => Err(ConnectionEnd::Misunderstood("it is binary".to_owned())),
            // The library answers both.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(frame))) => Err(closed(frame)),
            Some(Err(error)) => Err(broken(error)),
            None => Err(broken("it has ended")),
        };
        let is_end = message.is_err();
        if messages.send(message).await.is_err() || is_end {
            return;
        }
    }
}

fn closed(frame: Option<CloseFrame>) -> ConnectionEnd {
    // 1005: there was no code.
    let (code, reason) = frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
    let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
    ConnectionEnd::Closed(code, reason)
}

#[cfg(test)]
mod tests;
