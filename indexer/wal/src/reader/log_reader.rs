//! The reader: entries in token order, each with its descriptors and its outcome.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::{
    labels::LabelLookahead,
    listing::{BEFORE_TOKENS, ListedEntry, RangeListing, UnrecognizedKeys},
    memory_budget::{MemoryBudget, MemoryShare},
    refusals::{ReadCount, RefusalCause, RefusalRegistry, RefusalVerdict, is_refusal, top_folder},
    resolved_entry::{ResolvedEntry, oversized, unreadable},
    version_cache::VersionCache,
};
use crate::{log::Log, malformed::MalformedInput, parameters::ParameterSchedule, token::Token};
use tidemark_store::{ObjectInfo, Store, StoreError, StoreSecond, StoredObject};

/// What is read of an object before its size is known; a larger one is read again once its size is charged.
pub(super) const FIRST_READ_BYTES: u64 = 4 * 1024;
/// Objects behind a refused one among which another is looked for that the store gives: a page of a listing.
const PROOFS_LISTED: usize = 1000;
/// How many of them are tried.
pub(super) const PROOFS_READ: usize = 4;
/// What an ordinary entry takes beside its body: it is parsed, with one descriptor, into one record.
const ORDINARY_ENTRY_BYTES: u64 = 8 * 1024;

/// How many listings run at once over a long range.
const MAX_CONCURRENT_LISTINGS: usize = 8;

/// A reader of one log. Cheap to clone; clones share the count of unrecognized keys, and what they know of refused objects.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) log: Log,
    listings: usize,
    unrecognized: Arc<UnrecognizedKeys>,
    pub(super) refusals: Arc<RefusalRegistry>,
    /// The labels that entries name.
    pub(super) labels: Arc<LabelLookahead>,
    pub(super) versions: Arc<VersionCache>,
    /// Whether to read the names of the files of bundles.
    pub(super) file_names: bool,
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
    pub fn new(log: &Log) -> Self {
        let (log, listings) = (log.clone(), MAX_CONCURRENT_LISTINGS);
        let (unrecognized, refusals) = (Arc::default(), Arc::default());
        Self {
            log,
            listings,
            unrecognized,
            refusals,
            labels: Arc::default(),
            versions: Arc::default(),
            file_names: false,
        }
    }

    /// The same reader with one listing at a time, for ranges that are mostly empty.
    #[must_use]
    pub fn with_one_listing(self) -> Self {
        Self { listings: 1, ..self }
    }

    /// The same reader, which also reads the names of the files of bundles if `wanted`: a GET more for each list of 1000.
    #[must_use]
    pub fn with_file_names(self, wanted: bool) -> Self {
        Self { file_names: wanted, ..self }
    }

    /// The entries whose second is in [`from`, `to`), in token order. Ends after the first error.
    ///
    /// A long range is listed in several slices of time at once; order and completeness are those of one listing. Keys
    /// that are not tokens are counted; Tidemark's own are skipped.
    pub fn list(&self, from: StoreSecond, to: StoreSecond) -> BoxStream<'static, Result<ListedEntry, StoreError>> {
        RangeListing::new(&self.log.entries, from, to, self.unrecognized.clone()).stream(self.listings).boxed()
    }

    /// As [`LogReader::list`], the entries after `token` whose second is below `to`.
    pub fn list_after(&self, token: Token, to: StoreSecond) -> BoxStream<'static, Result<ListedEntry, StoreError>> {
        let range = RangeListing::new(&self.log.entries, token.second(), to, self.unrecognized.clone());
        range.after(token).stream(self.listings).boxed()
    }

    /// How many different keys that are not tokens the listings have met, up to 100 000.
    pub fn unrecognized_keys(&self) -> u64 {
        self.unrecognized.count()
    }

    /// Reads the entry and the descriptors that it names, and decides its outcome by the parameters in force at its second.
    ///
    /// An error names the object at fault and concerns this entry alone: try again. An object that the store refuses again
    /// and again is judged without being read once another one of the same folder that is not older was read meanwhile: an entry is
    /// [`Outcome::Unreadable`](crate::Outcome::Unreadable), a descriptor counts by its attributes. The answer is final only
    /// for an entry below the horizon that was listed after the probe which that horizon rests on.
    pub async fn fetch(&self, listed: &ListedEntry, schedule: &ParameterSchedule) -> Result<ResolvedEntry, StoreError> {
        self.fetch_within(listed, schedule, &MemoryShare::unshared()).await
    }

    /// Opens the share of an entry in `budget`, and charges what reading it takes at first. Entries are served in the order
    /// of these calls.
    pub async fn admit(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        budget: &MemoryBudget,
    ) -> MemoryShare {
        let memory = budget.open();
        memory.charge(admission_bytes(listed, schedule)).await;
        memory
    }

    /// As [`LogReader::fetch`]. Charges everything that it reads, parses and returns to `memory` before it does so, from
    /// [`LogReader::admit`] or an attempt before.
    pub async fn fetch_within(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        memory.shrink_to(admission_bytes(listed, schedule));
        let limit = schedule.at(listed.token.second()).max_entry_size;
        if listed.size > limit {
            return Ok(oversized(listed.token, listed.time, listed.size, limit));
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

    /// As [`LogReader::fetch_within`], for an entry that is known to be unreadable: what the store still refuses is an error and
    /// no new judgement, since the entry has one.
    pub async fn fetch_again(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        // Before the reading that judges: one GET more for an entry that can be read after all.
        self.log.entries.get(&listed.token.to_string(), FIRST_READ_BYTES).await?;
        self.fetch_within(listed, schedule, memory).await
    }

    /// Reads the entry, of which `expected` bytes are charged.
    async fn find_entry(
        &self,
        token: Token,
        expected: u64,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        let (key, limit) = (token.to_string(), schedule.at(token.second()).max_entry_size);
        let (read, _) = self.read_charged(&self.log.entries, &key, expected, limit, memory).await?;
        let object = match read {
            ReadObject::Absent => return Ok(None),
            ReadObject::Refused { info, why } => return Ok(Some(unreadable(token, &info, why))),
            ReadObject::Read(object) => object,
        };
        if object.body.is_none() {
            return Ok(Some(oversized(token, object.info.time, object.info.size, limit)));
        }
        self.resolve(token, object, schedule, memory).await.map(Some)
    }

    /// Judges an entry whose reading panicked with `message`, by the rule for a refused one. An error: try again.
    pub async fn judge_panic(&self, listed: &ListedEntry, message: &str) -> Result<ResolvedEntry, StoreError> {
        let key = listed.token.to_string();
        let url = self.log.entries.url().to_string();
        let panic = StoreError::Refused { url, key: key.clone(), why: format!("reading it panicked: {message}") };
        let info = ObjectInfo { key, time: listed.time, size: listed.size, etag: None };
        let why = self.judge(&self.log.entries, RefusalCause::Panic, &info, self.refusals.reads(), panic).await?;
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
            let before = self.refusals.reads();
            let read = store.get(key, charged.min(limit)).await;
            let read = self.judged(store, key, before, read).await?;
            match &read {
                ReadObject::Read(object) if object.body.is_none() && object.info.size <= limit => {
                    memory.charge(object.info.size.saturating_sub(charged)).await;
                    charged = object.info.size;
                }
                _ => return Ok((read, charged)),
            }
        }
    }

    /// What was read of an object; one that the store refuses is perhaps judged without being read. `before` was read before it
    /// was asked for.
    pub(super) async fn judged(
        &self,
        store: &Store,
        key: &str,
        before: ReadCount,
        read: Result<Option<StoredObject>, StoreError>,
    ) -> Result<ReadObject, StoreError> {
        match read {
            Ok(None) | Err(StoreError::BadKey { .. }) => Ok(ReadObject::Absent),
            Ok(Some(object)) => {
                self.refusals.record_read(store, (key, None), object.info.time);
                Ok(ReadObject::Read(object))
            }
            Err(error) if is_refusal(&error) => {
                let info = match attributes(store, key).await {
                    Ok(Some(info)) => info,
                    Ok(None) => return Ok(ReadObject::Absent),
                    // Nothing is known of the object: what its reading met says more.
                    Err(_) => return Err(error),
                };
                let why = self.judge(store, RefusalCause::Store, &info, before, error).await?;
                Ok(ReadObject::Refused { info, why })
            }
            Err(error) => Err(error),
        }
    }

    /// Why the object is judged without being read. `error`, if it is not yet.
    async fn judge(
        &self,
        store: &Store,
        cause: RefusalCause,
        info: &ObjectInfo,
        before: ReadCount,
        error: StoreError,
    ) -> Result<MalformedInput, StoreError> {
        let key = info.key.as_str();
        let verdict = self.refusals.record_refusal(store, (key, None), cause, info.time, before, &error);
        if verdict == RefusalVerdict::LookForProof
            && let Err(failure) = self.look_for_proof(store, info).await
        {
            // The error of the object itself says more than one of looking on.
            tracing::debug!(key, %failure, "nothing else could be listed");
        }
        judgement(verdict, store, key, error)
    }

    /// Reads some of the newest objects of the folder of a refused one, of those listed behind it or, where none is, of the
    /// folder's first. One that is read is noted.
    async fn look_for_proof(&self, store: &Store, refused: &ObjectInfo) -> Result<(), StoreError> {
        let folder = top_folder(&refused.key);
        let later = async |after: &str| {
            let listed = store.list(folder, Some(after)).take(PROOFS_LISTED);
            let mut others: Vec<ObjectInfo> = listed.try_collect().await?;
            let is_proof = |other: &ObjectInfo| {
                top_folder(&other.key) == folder && other.time >= refused.time && other.key != refused.key
            };
            others.retain(is_proof);
            Ok::<_, StoreError>(others)
        };
        let mut others = later(&refused.key).await?;
        if others.is_empty() {
            // What is our own is no entry.
            others = later(if folder.is_empty() { BEFORE_TOKENS } else { folder }).await?;
        }
        others.sort_by_key(|other| other.time);
        for other in others.iter().rev().take(PROOFS_READ) {
            if let Ok(Some(object)) = store.get(&other.key, FIRST_READ_BYTES).await {
                self.refusals.record_read(store, (&other.key, None), object.info.time);
                break;
            }
        }
        Ok(())
    }
}

/// Why an object, or a version of it, is judged without being read. `error`, if it is not yet.
pub(super) fn judgement(
    verdict: RefusalVerdict,
    store: &Store,
    key: &str,
    error: StoreError,
) -> Result<MalformedInput, StoreError> {
    match verdict {
        RefusalVerdict::TryAgain | RefusalVerdict::LookForProof => Err(error),
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

/// What is charged before the entry is read.
fn admission_bytes(listed: &ListedEntry, schedule: &ParameterSchedule) -> u64 {
    if listed.size > schedule.at(listed.token.second()).max_entry_size {
        return ORDINARY_ENTRY_BYTES;
    }
    listed.size.max(FIRST_READ_BYTES) + ORDINARY_ENTRY_BYTES
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
