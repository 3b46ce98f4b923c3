//! Reading objects that are charged before they are read, and judged where the store refuses them.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::{
    listing::BEFORE_TOKENS,
    memory_budget::MemoryShare,
    refusals::{ReadCount, ReadTarget, RefusalCause, RefusalRegistry, RefusalVerdict, is_refusal, top_folder},
};
use crate::malformed::MalformedInput;
use tidemark_store::{ObjectInfo, Store, StoreError, StoredObject};

/// What is read of an object before its size is known; a larger one is read again once its size is charged.
pub(super) const FIRST_READ_BYTES: u64 = 4 * 1024;
/// Objects behind a refused one among which another is looked for that the store gives: a page of a listing.
const PROOFS_LISTED: usize = 1000;
/// How many of them are tried.
pub(super) const PROOFS_READ: usize = 4;

/// Reads the objects of a log's stores. Clones share what they know of refused ones.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectReader {
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

/// What is charged for an object that is read: a little while its size is not known, then all of it.
pub(super) struct ReadCharge {
    pub(super) bytes: u64,
    limit: u64,
}

impl ReadCharge {
    /// For an object of at most `limit` bytes; `bytes` are charged already.
    pub(super) fn new(bytes: u64, limit: u64) -> Self {
        Self { bytes, limit }
    }

    /// How many bytes may be read.
    pub(super) fn readable(&self) -> u64 {
        self.bytes.min(self.limit)
    }

    /// Charges all of the object, where only its size was read since it is larger than what was charged. Then it is to be read again.
    ///
    /// The answer that tells the size is given up rather than kept waiting for memory: a connection that nobody reads from
    /// runs into its timeout.
    pub(super) async fn has_grown_to(&mut self, object: &StoredObject, memory: &MemoryShare) -> bool {
        let is_larger = object.body.is_none() && object.info.size <= self.limit;
        if is_larger {
            memory.charge(object.info.size.saturating_sub(self.bytes)).await;
            self.bytes = object.info.size;
        }
        is_larger
    }
}

impl ObjectReader {
    /// What is known of refused objects.
    pub(super) fn refusals(&self) -> &RefusalRegistry {
        &self.refusals
    }

    /// Reads an object of at most `limit` bytes, or judges it without being read. The larger one of `expected` and
    /// [`FIRST_READ_BYTES`] is charged already; what the object has beyond that is charged before it is read. Gives also
    /// what is charged for it in all.
    pub(super) async fn read(
        &self,
        store: &Store,
        name: ReadTarget<'_>,
        expected: u64,
        limit: u64,
        memory: &MemoryShare,
    ) -> Result<(ReadObject, u64), StoreError> {
        let mut charge = ReadCharge::new(expected.max(FIRST_READ_BYTES), limit);
        loop {
            let before = self.refusals.reads();
            let read = store.get(name.key, charge.readable()).await;
            let read = self.judged(store, name, before, read).await?;
            match &read {
                ReadObject::Read(object) if charge.has_grown_to(object, memory).await => {}
                _ => return Ok((read, charge.bytes)),
            }
        }
    }

    /// What was read of an object; one that the store refuses is perhaps judged without being read. `before` was read before it
    /// was asked for.
    pub(super) async fn judged(
        &self,
        store: &Store,
        name: ReadTarget<'_>,
        before: ReadCount,
        read: Result<Option<StoredObject>, StoreError>,
    ) -> Result<ReadObject, StoreError> {
        match read {
            Err(StoreError::BadKey { .. }) => Ok(ReadObject::Absent),
            Ok(None) => {
                self.refusals.record_absence(store, name);
                Ok(ReadObject::Absent)
            }
            Ok(Some(object)) => {
                self.refusals.record_read(store, name, object.info.time);
                Ok(ReadObject::Read(object))
            }
            Err(error) if is_refusal(&error) => {
                let info = match attributes(store, name.key).await {
                    Ok(Some(info)) => info,
                    Ok(None) => {
                        self.refusals.record_absence(store, name);
                        return Ok(ReadObject::Absent);
                    }
                    // Nothing is known of the object: what its reading met says more.
                    Err(_) => return Err(error),
                };
                let why = self.judge(store, name, RefusalCause::Store, &info, before, error).await?;
                Ok(ReadObject::Refused { info, why })
            }
            Err(error) => Err(error),
        }
    }

    /// Why the object is judged without being read. `error`, if it is not yet.
    pub(super) async fn judge(
        &self,
        store: &Store,
        name: ReadTarget<'_>,
        cause: RefusalCause,
        info: &ObjectInfo,
        before: ReadCount,
        error: StoreError,
    ) -> Result<MalformedInput, StoreError> {
        let verdict = self.refusals.record_refusal(store, name, cause, info.time, before, &error);
        if verdict == RefusalVerdict::LookForProof
            && let Err(failure) = self.look_for_proof(store, info).await
        {
            // The error of the object itself says more than one of looking on.
            tracing::debug!(key = name.key, %failure, "nothing else could be listed");
        }
        judgement(verdict, store, name, error)
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
            let read = AssertUnwindSafe(store.get(&other.key, FIRST_READ_BYTES)).catch_unwind().await;
            // One whose reading panics is no proof either.
            if let Ok(Ok(Some(object))) = read {
                self.refusals.record_read(store, ReadTarget::deciding(&other.key), object.info.time);
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
    name: ReadTarget<'_>,
    error: StoreError,
) -> Result<MalformedInput, StoreError> {
    let key = name.key;
    match verdict {
        RefusalVerdict::TryAgain | RefusalVerdict::LookForProof => Err(error),
        RefusalVerdict::Unreadable => {
            // There may be any number of the others.
            if name.is_counted {
                tracing::warn!(key, %error, "an object is judged without being read");
            } else {
                tracing::debug!(key, version = name.version, %error, "an object is judged without being read");
            }
            Ok(MalformedInput { reason: format!("it was not given: {error}") })
        }
        RefusalVerdict::TooMany => Err(StoreError::Failed {
            url: store.url().to_string(),
            key: key.to_owned(),
            why: format!("{error}; so many objects were refused within the hour that none is skipped any more"),
        }),
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
