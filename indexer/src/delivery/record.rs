//! A record on its way to a destination.

use std::sync::Arc;

use jiff::Timestamp;
use tidemark_catalog::ConsumerPosition;
use tidemark_search::api::{ChangeRecord, FeedPosition};
use tidemark_wal::Token;

use super::canonical_json::DocumentDigest;

/// A change as it is delivered. A clone shares its text.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRecord {
    /// The place after it.
    pub position: ConsumerPosition,
    /// The entry's token.
    pub token: Token,
    /// The operation's place in its entry.
    pub op: u32,
    /// The token's second.
    pub time: Timestamp,
    /// The entity that it is about.
    pub entity: Option<String>,
    /// The whole change, as JSON on one line.
    pub json: Arc<str>,
}

impl DeliveryRecord {
    /// The record of a change.
    pub fn of(change: &ChangeRecord) -> serde_json::Result<Self> {
        Ok(Self {
            position: consumer_position(&change.position),
            token: change.token,
            op: change.op,
            time: change.time,
            entity: change.entity.clone(),
            json: serde_json::to_string(change)?.into(),
        })
    }

    /// Its number in the order of publication.
    pub fn seq(&self) -> u64 {
        self.position.seq
    }

    /// What it counts against bounds in bytes.
    pub fn bytes(&self) -> u64 {
        self.json.len() as u64
    }

    /// The digest of what its document should be.
    pub(crate) fn digest(&self) -> serde_json::Result<DocumentDigest> {
        DocumentDigest::of_change(&self.json)
    }

    /// What names its operation: all records of one operation have it, a correction too.
    pub fn operation_id(&self) -> String {
        format!("{}-{}", self.token, self.op)
    }
}

/// The place that a consumer keeps.
pub(super) fn consumer_position(position: &FeedPosition) -> ConsumerPosition {
    ConsumerPosition { generation: position.generation.clone(), seq: position.seq }
}
