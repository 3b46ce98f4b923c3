//! What a service of changes and its client say to each other over a WebSocket. `docs/changes.md` specifies it.

use axum::extract::ws::{Message, Utf8Bytes};
use serde::{Deserialize, Serialize};
use tidemark_search::api::{ChangeRecord, ChangesAnswer, FeedCheckpoint, FeedPosition};

use super::problem::ProblemDetails;

/// The subprotocol that a client names, and with it the version of the messages.
pub(super) const SUBPROTOCOL: &str = "tidemark.changes.v1";

/// A message of a client.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientMessage {
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
pub(super) enum ServerMessage<'a> {
    /// A change. It takes one credit until it is acknowledged.
    Change(&'a ChangeRecord),
    /// The position after records that the query leaves out.
    Next(&'a FeedPosition),
    /// Up to here everything is acknowledged: where a client goes on that connects again.
    Acknowledged(&'a FeedPosition),
    /// Why the connection ends.
    Problem(&'a ProblemDetails),
}

/// What waits for the changes before it, and these for room.
pub(super) enum FeedItem {
    Change(FeedPosition, Utf8Bytes),
    Checkpoint(FeedCheckpoint, Utf8Bytes),
    Pass(FeedPosition),
}

impl FeedItem {
    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Change(_, text) | Self::Checkpoint(_, text) => size_of::<Self>() + text.len(),
            Self::Pass(_) => 0,
        }
    }
}

/// The messages of an answer. `None` if a change cannot be written: what follows it must not be sent without it.
pub(super) fn items(answer: ChangesAnswer) -> Option<Vec<FeedItem>> {
    let mut items = Vec::new();
    let mut checkpoints = answer.checkpoints.iter().peekable();
    for change in &answer.changes {
        while let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.position.seq < change.seq) {
            items.push(FeedItem::Checkpoint(checkpoint.clone(), text(checkpoint)?));
        }
        items.push(FeedItem::Change(change.position.clone(), text(&ServerMessage::Change(change))?));
    }
    for checkpoint in checkpoints {
        items.push(FeedItem::Checkpoint(checkpoint.clone(), text(checkpoint)?));
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

pub(super) fn message(content: &ServerMessage<'_>) -> Option<Message> {
    text(content).map(Message::Text)
}
