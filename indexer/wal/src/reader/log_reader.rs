//! The reader: entries in token order, each with its descriptors and its outcome.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};

use super::{
    listing::{ListedEntry, RangeListing, UnrecognizedKeys},
    memory_budget::{MemoryBudget, MemoryShare},
    refusals::{RefusalCause, RefusalRegistry, RefusalVerdict, is_refusal},
    resolved_entry::{ResolvedEntry, unreadable},
};
use crate::{log::Log, malformed::MalformedInput, parameters::ParameterSchedule, token::Token};
use tidemark_store::{ObjectInfo, Store, StoreError, StoreSecond, StoredObject};

/// What is read of an object before its size is known; a larger one is read again once its size is charged.
pub(super) const FIRST_READ_BYTES: u64 = 4 * 1024;
/// What an ordinary entry takes beside its body: it is parsed, with one descriptor, into one record.
const ORDINARY_ENTRY_BYTES: u64 = 8 * 1024;

/// Limits of what a reader holds and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLimits {
    /// Largest body of an entry in bytes; a larger one is malformed and not read.
    pub entry: u64,
    /// Largest descriptor in bytes; a larger one counts as present, but is not read. What is kept of those that are read
    /// is bounded by constants.
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
    /// An object that the store refuses to give, though it gives others that are not older.
    Refused {
        /// Its attributes, from a HEAD or a listing.
        info: ObjectInfo,
        /// The store's own words.
        why: MalformedInput,
    },
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
    /// and again is judged without being read once another one of the same store that is not older was read meanwhile: an entry is
    /// [`Outcome::Unreadable`](crate::Outcome::Unreadable), a descriptor counts by its attributes. The answer is final only
    /// for an entry below the horizon that was listed after the probe which that horizon rests on.
    pub async fn fetch(&self, listed: &ListedEntry, schedule: &ParameterSchedule) -> Result<ResolvedEntry, StoreError> {
        self.fetch_within(listed, schedule, &MemoryShare::unshared()).await
    }

    /// Opens the share of an entry in `budget`, and charges what reading it takes at first. Entries are served in the order
    /// of these calls.
    pub async fn admit(&self, listed: &ListedEntry, budget: &MemoryBudget) -> MemoryShare {
        let memory = budget.open();
        memory.charge(self.admission_bytes(listed)).await;
        memory
    }

    fn admission_bytes(&self, listed: &ListedEntry) -> u64 {
        if listed.size > self.limits.entry {
            return ORDINARY_ENTRY_BYTES;
        }
        listed.size.max(FIRST_READ_BYTES) + ORDINARY_ENTRY_BYTES
    }

    /// As [`LogReader::fetch`]. Charges everything that it reads, parses and returns to `memory` before it does so, from
    /// [`LogReader::admit`] or an attempt before.
    pub async fn fetch_within(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        memory.shrink_to(self.admission_bytes(listed));
        if listed.size > self.limits.entry {
            return Ok(self.oversized(listed.token, listed.time, listed.size));
        }
        let found = self.find_entry(listed.token, listed.size, schedule, memory).await?;
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
        self.lookup_within(token, schedule, &MemoryShare::unshared()).await
    }

    /// As [`LogReader::lookup`]. Charges everything that it reads, parses and returns to `memory` before it does so.
    pub async fn lookup_within(
        &self,
        token: Token,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        memory.charge(FIRST_READ_BYTES + ORDINARY_ENTRY_BYTES).await;
        self.find_entry(token, 0, schedule, memory).await
    }

    /// Reads the entry, of which `expected` bytes are charged.
    async fn find_entry(
        &self,
        token: Token,
        expected: u64,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        let (key, limit) = (token.to_string(), self.limits.entry);
        let (read, _) = self.read_charged(&self.log.entries, &key, expected, limit, memory).await?;
        let object = match read {
            ReadObject::Absent => return Ok(None),
            ReadObject::Refused { info, why } => return Ok(Some(unreadable(token, &info, why))),
            ReadObject::Read(object) => object,
        };
        if object.body.is_none() {
            return Ok(Some(self.oversized(token, object.info.time, object.info.size)));
        }
        self.resolve(token, object, schedule.at(token.second()), memory).await.map(Some)
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

    /// Reads an object of at most `limit` bytes, or judges it without being read. The larger one of `expected` and
    /// [`FIRST_READ_BYTES`] is charged already; what the object has beyond that is charged before it is read. Gives also
    /// what is charged for it in all.
    ///
    /// The answer that tells the size is given up rather than kept waiting for memory: a connection that nobody reads from
    /// runs into its timeout.
    pub(super) async fn read_charged(
        &self,
        store: &Store,
        key: &str,
        expected: u64,
        limit: u64,
        memory: &MemoryShare,
    ) -> Result<(ReadObject, u64), StoreError> {
        let mut charged = expected.max(FIRST_READ_BYTES);
        loop {
            let read = self.judged(store, key, store.get(key, charged.min(limit)).await).await?;
            match &read {
                ReadObject::Read(object) if object.body.is_none() && object.info.size <= limit => {
                    memory.charge(object.info.size.saturating_sub(charged)).await;
                    charged = object.info.size;
                }
                _ => return Ok((read, charged)),
            }
        }
    }

    /// What was read of an object; one that the store refuses is perhaps judged without being read.
    pub(super) async fn judged(
        &self,
        store: &Store,
        key: &str,
        read: Result<Option<StoredObject>, StoreError>,
    ) -> Result<ReadObject, StoreError> {
        match read {
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
