//! The reader: entries in token order, each with its descriptors and its outcome.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};

use super::{
    listing::{ListedEntry, RangeListing, UnrecognizedKeys},
    refusals::{RefusalCause, RefusalRegistry, RefusalVerdict, is_refusal},
};
use crate::{
    datamon::{DatamonDescriptor, DatamonPath},
    log::Log,
    malformed::MalformedInput,
    outcome::OutcomeDecision,
    parameters::ParameterSchedule,
    payload::{EntryIntent, IntentOperation},
    reader::resolve::unreadable,
    token::Token,
};
use tidemark_store::{ObjectInfo, Store, StoreError, StoreSecond, StoredObject};

/// Limits of what a reader holds and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLimits {
    /// Largest body of an entry in bytes; a larger one is malformed and not read.
    pub entry: u64,
    /// Largest descriptor in bytes; a larger one counts as present, but is not read.
    pub descriptor: u64,
    /// How many listings run at once over a long range.
    pub listings: usize,
}

impl Default for ReaderLimits {
    fn default() -> Self {
        Self { entry: 1 << 20, descriptor: 16 << 20, listings: 8 }
    }
}

/// A reader of one log. Cheap to clone; clones share the count of unrecognized keys, and what they know of refused objects.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) log: Log,
    pub(super) limits: ReaderLimits,
    unrecognized: Arc<UnrecognizedKeys>,
    refusals: Arc<RefusalRegistry>,
}

/// What a store holds under a key.
pub(super) enum ReadObject {
    /// Nothing; also under a key that the store cannot hold, whatever other programs name.
    Absent,
    /// The object.
    Read(StoredObject),
    /// An object that the store refuses to give, though it gives others that were written later.
    Refused {
        /// Its attributes, from a HEAD or a listing.
        info: ObjectInfo,
        /// The store's own words.
        why: MalformedInput,
    },
}

/// An entry with all that is known of it.
#[derive(Clone, Debug)]
pub struct ResolvedEntry {
    /// Its token.
    pub token: Token,
    /// Its store time.
    pub entry_time: StoreSecond,
    /// Size of its body in bytes.
    pub size: u64,
    /// Its body; empty when it is over the limit.
    pub body: Bytes,
    /// What it announces.
    pub intent: Result<EntryIntent, MalformedInput>,
    /// The latest of the store's clocks in the answers that showed all this; `None` where some answer did not say.
    pub answered: Option<StoreSecond>,
    /// Its operations in their order; never empty. A malformed entry has exactly one, of kind and outcome malformed.
    pub ops: Vec<ResolvedOperation>,
}

/// One operation and its outcome.
#[derive(Clone, Debug)]
pub struct ResolvedOperation {
    /// What was announced.
    pub operation: IntentOperation,
    /// What its descriptor describes.
    pub path: DatamonPath,
    /// Its outcome. The operations of one entry share outcome and completion; evidence and observations are its own.
    pub decision: OutcomeDecision,
    /// The descriptor, where one was found that is this operation's and could be read.
    pub descriptor: Option<DatamonDescriptor>,
    /// Why a descriptor that was found could not be read. It completes the operation all the same.
    pub unreadable: Option<MalformedInput>,
}

impl LogReader {
    /// A reader of `log`.
    pub fn new(log: &Log, limits: ReaderLimits) -> Self {
        Self { log: log.clone(), limits, unrecognized: Arc::default(), refusals: Arc::default() }
    }

    /// The entries whose second is in [`from`, `to`), in token order. Ends after the first error.
    ///
    /// A long range is listed in several slices of time at once; order and completeness are those of one listing. Keys
    /// that are not tokens are counted; Tidemark's own are skipped.
    pub fn list(&self, from: StoreSecond, to: StoreSecond) -> BoxStream<'static, Result<ListedEntry, StoreError>> {
        RangeListing::new(&self.log.entries, from, to, self.unrecognized.clone()).stream(self.limits.listings).boxed()
    }

    /// How many different keys that are not tokens the listings have met, up to 100 000.
    pub fn unrecognized_keys(&self) -> u64 {
        self.unrecognized.count()
    }

    /// Reads the entry and the descriptors that it names, and decides its outcome by the parameters in force at its second.
    ///
    /// An error names the object at fault and concerns this entry alone: try again. An object that the store refuses again
    /// and again is judged without being read once a later one of the same store was read meanwhile: an entry is
    /// [`Outcome::Unreadable`](crate::Outcome::Unreadable), a descriptor counts by its attributes. The answer is final only
    /// for an entry below the horizon that was listed after the probe which that horizon rests on.
    pub async fn fetch(&self, listed: &ListedEntry, schedule: &ParameterSchedule) -> Result<ResolvedEntry, StoreError> {
        if listed.size > self.limits.entry {
            return Ok(self.oversized(listed.token, listed.time, listed.size));
        }
        let found = self.lookup(listed.token, schedule).await?;
        found.ok_or_else(|| StoreError::Failed {
            url: self.log.entries.url().to_string(),
            key: listed.token.to_string(),
            why: "the entry was listed but is absent; only the log's own cleanup may delete entries".to_owned(),
        })
    }

    /// As [`LogReader::fetch`], for a token that no listing showed; `None` where there is no such entry.
    pub async fn lookup(
        &self,
        token: Token,
        schedule: &ParameterSchedule,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        let object = match self.read(&self.log.entries, &token.to_string(), self.limits.entry).await? {
            ReadObject::Absent => return Ok(None),
            ReadObject::Refused { info, why } => return Ok(Some(unreadable(token, &info, why))),
            ReadObject::Read(object) => object,
        };
        if object.body.is_none() {
            return Ok(Some(self.oversized(token, object.info.time, object.info.size)));
        }
        self.resolve(token, object, schedule.at(token.second())).await.map(Some)
    }

    /// Judges an entry whose reading panicked with `message`, by the rule for a refused one. An error: try again.
    pub fn judge_panic(&self, listed: &ListedEntry, message: &str) -> Result<ResolvedEntry, StoreError> {
        let key = listed.token.to_string();
        let url = self.log.entries.url().to_string();
        let panic = StoreError::Refused { url, key: key.clone(), why: format!("reading it panicked: {message}") };
        let info = ObjectInfo { key, time: listed.time, size: listed.size, etag: None };
        let why = self.judge(&self.log.entries, RefusalCause::Panic, &info, panic)?;
        Ok(unreadable(listed.token, &info, why))
    }

    /// Reads an object, or judges it without being read.
    pub(super) async fn read(&self, store: &Store, key: &str, limit: u64) -> Result<ReadObject, StoreError> {
        match store.get(key, limit).await {
            Ok(None) | Err(StoreError::BadKey { .. }) => Ok(ReadObject::Absent),
            Ok(Some(object)) => {
                self.refusals.record_read(store, key, object.info.time);
                Ok(ReadObject::Read(object))
            }
            Err(error) if is_refusal(&error) => {
                let info = match attributes(store, key).await {
                    Ok(Some(info)) => info,
                    Ok(None) => return Ok(ReadObject::Absent),
                    // Nothing is known of the object: what its reading met says more.
                    Err(_) => return Err(error),
                };
                let why = self.judge(store, RefusalCause::Store, &info, error)?;
                Ok(ReadObject::Refused { info, why })
            }
            Err(error) => Err(error),
        }
    }

    /// Why the object is judged without being read. `error`, if it is not yet.
    fn judge(
        &self,
        store: &Store,
        cause: RefusalCause,
        info: &ObjectInfo,
        error: StoreError,
    ) -> Result<MalformedInput, StoreError> {
        let key = info.key.as_str();
        match self.refusals.record_refusal(store, key, cause, info.time, &error) {
            RefusalVerdict::TryAgain => Err(error),
            RefusalVerdict::Unreadable => {
                tracing::warn!(key, %error, "an object is judged without being read");
                Ok(MalformedInput { reason: format!("it was not given: {error}") })
            }
            RefusalVerdict::TooMany => Err(StoreError::Failed {
                url: store.url().to_string(),
                key: key.to_owned(),
                why: format!("{error}; so many objects were refused within the hour that none is skipped any more"),
            }),
        }
    }
}

/// The attributes of an object whose body the store refuses; `None` where there is no such object.
async fn attributes(store: &Store, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
    if let Ok(info) = store.head(key).await {
        return Ok(info);
    }
    // A policy may refuse HEAD where it refuses GET, and still show the name.
    let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
    let before = key.char_indices().next_back().map(|(last, _)| &key[..last]);
    let mut listing = store.list(folder, before);
    while let Some(info) = listing.next().await.transpose()? {
        if info.key.as_str() >= key {
            return Ok((info.key == key).then_some(info));
        }
    }
    Ok(None)
}
