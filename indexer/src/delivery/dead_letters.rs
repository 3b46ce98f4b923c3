//! Records that a destination will never take, put aside.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemark_store::{Create, Store, StoreError, UserMetadata};

use super::record::DeliveryRecord;

/// The folder of the dead letters, in that of their consumer.
const DEAD_LETTER_FOLDER: &str = "dead-letters";

/// The dead letters of one consumer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetters {
    folder: Store,
}

/// The object of a dead letter.
#[derive(Serialize)]
struct DeadLetter<'a> {
    /// What the destination said.
    why: &'a str,
    /// The change.
    change: &'a RawValue,
}

impl DeadLetters {
    /// Those of the consumer whose folder this is.
    pub(crate) fn new(consumer: &Store) -> Self {
        Self { folder: consumer.below(DEAD_LETTER_FOLDER) }
    }

    /// Puts a record aside. It is durable when this returns. One that is there already, from before a crash, stays as it is.
    pub(crate) async fn put(&self, record: &DeliveryRecord, why: &str) -> Result<(), StoreError> {
        let key = format!("{}/{:020}.json", record.position.generation, record.seq());
        let failed = |why: String| StoreError::Failed { url: self.folder.url().to_string(), key: key.clone(), why };
        let change = serde_json::from_str(&record.json).map_err(|error| failed(error.to_string()))?;
        let body = serde_json::to_vec(&DeadLetter { why, change }).map_err(|error| failed(error.to_string()))?;
        match self.folder.create_resolved(&key, Bytes::from(body), &UserMetadata::default()).await {
            Create::Committed | Create::Lost => Ok(()),
            Create::Unknown(error) => Err(error),
        }
    }

    /// The seqs of those that are there, of every generation: a consumer goes on in another one only where that keeps seqs.
    pub(crate) async fn seqs(&self) -> Result<BTreeSet<u64>, StoreError> {
        let (mut seqs, mut objects) = (BTreeSet::new(), self.folder.list("", None));
        while let Some(object) = objects.try_next().await? {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            seqs.extend(name.strip_suffix(".json").and_then(|seq| seq.parse::<u64>().ok()));
        }
        Ok(seqs)
    }
}
