//! A WebSocket: the sink connects, and the receiver says how many changes it takes and acknowledges them. `docs/sinks.md` specifies the
//! messages, which are those of `feed_socket` with the two sides exchanged.
//!
//! The connection outlives a batch. One that fails is given up, and what the receiver has acknowledged of the batch is not sent again.

use std::{
    collections::{BTreeSet, VecDeque},
    future::{pending, poll_fn},
    sync::Arc,
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
    sync::Notify,
    time::{Instant, sleep_until, timeout},
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
    /// What it means for the batch that is on its way, if a change of it was sent on this connection and is not acknowledged.
    fn answer(&self, is_unacknowledged: bool) -> BatchAnswer {
        match self {
            // One of the changes is too big for it: it is found, and the others are delivered.
            Self::Closed(1009, _) if is_unacknowledged => BatchAnswer::Refused { why: self.to_string() },
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
        match last.filter(|connection| connection.dialogue.lock().end.is_none()) {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    async fn deliver_rest(
        &self,
        last: Option<ReceiverConnection>,
        batch: &[DeliveryRecord],
        acknowledged: &mut BTreeSet<u64>,
    ) -> Result<ReceiverConnection, BatchAnswer> {
        let mut connection = self.connection(last).await?;
        let rest = batch.iter().filter(|record| !acknowledged.contains(&record.seq())).collect();
        let answer = match connection.deliver(rest, self.client.timeout()).await {
            Ok(()) => None,
            Err(end) => {
                let is_unacknowledged = !connection.dialogue.lock().unacknowledged.is_empty();
                connection.close(&end).await;
                Some(end.answer(is_unacknowledged))
            }
        };
        acknowledged.append(&mut connection.dialogue.lock().acknowledged);
        answer.map_or(Ok(connection), Err)
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
    dialogue: Arc<Mutex<SocketDialogue>>,
    /// Told after each message of the receiver.
    heard: Arc<Notify>,
    /// Reads, also while nothing is delivered: so pings are answered.
    _reading: AbortOnDropHandle<()>,
}

/// What both sides have said on a connection.
#[derive(Debug, Default)]
struct SocketDialogue {
    credits: usize,
    /// What was sent and is not acknowledged: changes of the batch that is on its way.
    unacknowledged: BTreeSet<u64>,
    /// What was acknowledged of that batch.
    acknowledged: BTreeSet<u64>,
    /// The first and the last change that were sent.
    sent: Option<(ConsumerPosition, ConsumerPosition)>,
    /// Why it is over.
    end: Option<ConnectionEnd>,
}

impl ReceiverConnection {
    fn new(
        sink: SplitSink<WebSocketStream<Upgraded>, Message>,
        stream: SplitStream<WebSocketStream<Upgraded>>,
    ) -> Self {
        let (dialogue, heard) = (Arc::<Mutex<SocketDialogue>>::default(), Arc::<Notify>::default());
        let reading = tokio::spawn(read_messages(stream, Arc::clone(&dialogue), Arc::clone(&heard)));
        Self { sink, dialogue, heard, _reading: AbortOnDropHandle::new(reading) }
    }

    /// Sends the records as the receiver has room for them, and waits until all are acknowledged. Each acknowledgement may take `patience`;
    /// it counts also while a record is on its way.
    async fn deliver(&mut self, mut rest: VecDeque<&DeliveryRecord>, patience: Duration) -> Result<(), ConnectionEnd> {
        let (mut due, mut acknowledged, mut is_flushed) = (Instant::now() + patience, 0, true);
        loop {
            let may_send = {
                let mut dialogue = self.dialogue.lock();
                if rest.is_empty() && dialogue.unacknowledged.is_empty() && is_flushed {
                    return Ok(());
                }
                if let Some(end) = dialogue.end.take() {
                    return Err(end);
                }
                if dialogue.acknowledged.len() > acknowledged {
                    (due, acknowledged) = (Instant::now() + patience, dialogue.acknowledged.len());
                }
                !rest.is_empty() && dialogue.unacknowledged.len() < dialogue.credits
            };
            let sink = &mut self.sink;
            let sending = async {
                if may_send {
                    poll_fn(|context| sink.poll_ready_unpin(context)).await
                } else if is_flushed {
                    pending().await
                } else {
                    sink.flush().await
                }
            };
            tokio::select! {
                done = sending => {
                    done.map_err(|error| self.end_of(error))?;
                    is_flushed = !may_send;
                    if let Some(record) = rest.pop_front_if(|_| may_send) {
                        self.start_sending(record)?;
                    }
                }
                () = self.heard.notified() => {}
                () = sleep_until(due) => return Err(ConnectionEnd::Overdue),
            }
        }
    }

    /// Begins to send a record, for which there is room.
    fn start_sending(&mut self, record: &DeliveryRecord) -> Result<(), ConnectionEnd> {
        self.dialogue.lock().send(record);
        let text = format!("{{\"change\":{}}}", record.json);
        self.sink.start_send_unpin(Message::text(text)).map_err(|error| self.end_of(error))
    }

    /// Why nothing can be sent: what the receiver has said of it, if it has.
    fn end_of(&self, error: impl std::fmt::Display) -> ConnectionEnd {
        self.dialogue.lock().end.take().unwrap_or_else(|| broken(error))
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

impl SocketDialogue {
    fn send(&mut self, record: &DeliveryRecord) {
        let first = self.sent.take().map_or_else(|| record.position.clone(), |(first, _)| first);
        self.sent = Some((first, record.position.clone()));
        self.unacknowledged.insert(record.seq());
    }

    /// Takes what the receiver says. Nothing counts after an end.
    fn hear(&mut self, message: Result<ReceiverMessage, ConnectionEnd>) {
        if self.end.is_none() {
            self.end = message.and_then(|message| self.apply(message)).err();
        }
    }

    fn apply(&mut self, message: ReceiverMessage) -> Result<(), ConnectionEnd> {
        match message {
            ReceiverMessage::Credits(credits) if credits > MAX_CREDITS => {
                let why = format!("{credits} credits are more than {MAX_CREDITS}");
                return Err(ConnectionEnd::Misunderstood(why));
            }
            ReceiverMessage::Credits(credits) => self.credits = credits as usize,
            ReceiverMessage::Ack(position) => {
                let after = self.seq_of(position)? + 1;
                let later = self.unacknowledged.split_off(&after);
                self.acknowledged.extend(std::mem::replace(&mut self.unacknowledged, later));
            }
            ReceiverMessage::AckEach(positions) => {
                for position in positions {
                    let seq = self.seq_of(position)?;
                    // One that is acknowledged twice is no other.
                    if self.unacknowledged.remove(&seq) {
                        self.acknowledged.insert(seq);
                    }
                }
            }
        }
        Ok(())
    }

    /// The seq of a position that lies between what was sent on this connection.
    fn seq_of(&self, position: FeedPosition) -> Result<u64, ConnectionEnd> {
        let is_sent = self.sent.as_ref().is_some_and(|(first, last)| {
            (first.seq..=last.seq).contains(&position.seq)
                && (&first.generation..=&last.generation).contains(&&position.generation)
        });
        if is_sent { Ok(position.seq) } else { Err(ConnectionEnd::NeverSent(position)) }
    }
}

fn broken(why: impl std::fmt::Display) -> ConnectionEnd {
    ConnectionEnd::Broken(why.to_string())
}

/// Takes what the receiver says until the connection ends.
async fn read_messages(
    mut stream: SplitStream<WebSocketStream<Upgraded>>,
    dialogue: Arc<Mutex<SocketDialogue>>,
    heard: Arc<Notify>,
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
            None => break,
        };
        dialogue.lock().hear(message);
        heard.notify_one();
    }
    dialogue.lock().hear(Err(broken("it has ended")));
    heard.notify_one();
}

fn closed(frame: Option<CloseFrame>) -> ConnectionEnd {
    // 1005: there was no code.
    let (code, reason) = frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
    let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
    ConnectionEnd::Closed(code, reason)
}

#[cfg(test)]
mod tests;
