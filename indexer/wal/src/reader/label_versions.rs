//! The versions of `label.yaml`, and whether the store lets its reader have them.
//!
//! To list versions and to read them are rights of their own. A refusal is asked again for a while: only a store that keeps
//! refusing while it answers for the object itself counts as one without versions, so that a temporary refusal decides
//! nothing, and a missing right blocks no reader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    log_reader::{FIRST_READ_BYTES, LogReader, ReadObject},
    memory_budget::MemoryShare,
    refusals::{RefusalCause, VersionRight, is_refusal},
    resolve::{DescriptorObject, TOKEN_FIELD},
};
use crate::malformed::MalformedInput;
use tidemark_store::{ObjectInfo, ObjectVersion, Store, StoreError, StoreSecond};

/// The pauses between the refusals after which a right counts as missing.
const REFUSAL_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// How much is remembered of versions. Beyond it all is forgotten, and asked again where needed.
const MAX_CACHE_BYTES: usize = 4 << 20;
/// What a version takes there, with its name.
const VERSION_BYTES: usize = 128;

/// What is known of an object's versions.
pub(super) struct LabelVersions {
    /// Oldest first, from the entry's second on.
    pub(super) versions: Vec<LabelVersion>,
    /// Whether no version of that time is missing, and each has a name.
    pub(super) is_complete: bool,
    /// Why the store lists none.
    pub(super) refused: Option<MalformedInput>,
}

/// One version of `label.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelVersion {
    /// The store's name of it; `None` for the one object of a store that keeps no versions.
    pub(super) id: Option<String>,
    pub(super) time: StoreSecond,
}

/// What reading a version gave.
pub(super) enum VersionRead {
    /// There is none any more, or its metadata names an operation: it is a copy of a marker's value.
    NotOwn,
    /// It names no operation; with what was read of it, if it was.
    Unnamed(Option<DescriptorObject>),
    /// The store refuses this one, though it gives others. Whose it is cannot be known: the entry's, another one's, or a copy of a
    /// marker's value.
    Refused(MalformedInput),
    /// The store refuses all versions.
    NoRight(MalformedInput),
}

/// What a store lists of versions.
#[derive(Clone, Debug)]
enum ListedVersions {
    /// Nothing: it keeps none.
    Unversioned,
    /// The oldest first.
    Versions(Arc<[ObjectVersion]>),
    /// Nothing, for good.
    Refused(MalformedInput),
}

impl ListedVersions {
    fn bytes(&self) -> usize {
        let Self::Versions(versions) = self else { return VERSION_BYTES };
        versions.iter().map(|version| VERSION_BYTES + version.id.as_ref().map_or(0, String::len)).sum()
    }
}

/// What is known of the versions of labels. Clones of a reader share it.
#[derive(Debug, Default)]
pub(super) struct VersionCache(Mutex<CachedHistories>);

#[derive(Debug, Default)]
struct CachedHistories {
    /// By store and key.
    by_label: BTreeMap<(String, String), Arc<LabelHistory>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct LabelHistory {
    // Held while they are listed, so that entries that are read at once ask once.
    listing: tokio::sync::Mutex<Option<HistoryListing>>,
    versions: Mutex<BTreeMap<String, Arc<VersionMark>>>,
}

/// Whether a version's metadata names an operation; `None` while it was not read. Held while it is read, so that entries that are
/// read at once read it once.
type VersionMark = tokio::sync::Mutex<Option<bool>>;

#[derive(Debug)]
struct HistoryListing {
    /// The horizon before the listing: for all entries below it nothing is missing.
    horizon: StoreSecond,
    from: StoreSecond,
    versions: ListedVersions,
}

impl VersionCache {
    fn history(&self, store: &Store, key: &str) -> Arc<LabelHistory> {
        let mut cached = self.0.lock();
        cached.by_label.entry((store.url().to_string(), key.to_owned())).or_default().clone()
    }

    fn mark(&self, store: &Store, key: &str, id: &str) -> Arc<VersionMark> {
        let history = self.history(store, key);
        let mut versions = history.versions.lock();
        if let Some(mark) = versions.get(id) {
            return mark.clone();
        }
        let mark = versions.entry(id.to_owned()).or_default().clone();
        drop(versions);
        self.grow(VERSION_BYTES + id.len());
        mark
    }

    fn grow(&self, bytes: usize) {
        let mut cached = self.0.lock();
        cached.bytes += bytes;
        if cached.bytes > MAX_CACHE_BYTES {
            *cached = CachedHistories::default();
        }
    }
}

impl LogReader {
    /// The versions of the label's key that were written from `from` on; `None` where the store has no such object.
    pub(super) async fn label_versions(
        &self,
        store: &Store,
        key: &str,
        from: StoreSecond,
    ) -> Result<Option<LabelVersions>, StoreError> {
        let refused = match self.listed_versions(store, key, from).await? {
            ListedVersions::Unversioned => None,
            ListedVersions::Refused(why) => Some(why),
            ListedVersions::Versions(all) if all.is_empty() => return Ok(None),
            ListedVersions::Versions(all) => {
                let since = all.iter().filter(|version| version.time >= from);
                let versions: Vec<_> =
                    since.map(|version| LabelVersion { id: version.id.clone(), time: version.time }).collect();
                // One without a name replaced others of its kind.
                if versions.iter().all(|version| version.id.is_some()) {
                    return Ok(Some(LabelVersions { versions, is_complete: true, refused: None }));
                }
                None
            }
        };
        let Some(time) = self.newest_time(store, key).await? else { return Ok(None) };
        let newest = (time >= from).then_some(LabelVersion { id: None, time });
        Ok(Some(LabelVersions { versions: newest.into_iter().collect(), is_complete: false, refused }))
    }

    /// The store time of the object itself, whatever its versions are.
    async fn newest_time(&self, store: &Store, key: &str) -> Result<Option<StoreSecond>, StoreError> {
        let before = self.refusals.reads();
        let attributes = store.get(key, 0).await;
        Ok(match self.judged(store, key, before, attributes).await? {
            ReadObject::Absent => None,
            ReadObject::Read(object) => Some(object.info.time),
            ReadObject::Refused { info, .. } => Some(info.time),
        })
    }

    /// The versions of the key; those before `from` may be left out, but for one.
    async fn listed_versions(&self, store: &Store, key: &str, from: StoreSecond) -> Result<ListedVersions, StoreError> {
        let history = self.versions.history(store, key);
        let mut listing = history.listing.lock().await;
        let horizon = self.labels.horizon();
        if let Some(known) = &*listing
            && (known.horizon == horizon && from < horizon && known.from <= from)
        {
            return Ok(known.versions.clone());
        }
        let versions = self.list_versions(store, key, from).await?;
        // A refusal is asked again by each entry.
        if from < horizon && !matches!(versions, ListedVersions::Refused(_)) {
            self.versions.grow(versions.bytes());
            *listing = Some(HistoryListing { horizon, from, versions: versions.clone() });
        }
        Ok(versions)
    }

    async fn list_versions(&self, store: &Store, key: &str, from: StoreSecond) -> Result<ListedVersions, StoreError> {
        let mut pauses = REFUSAL_PAUSES.into_iter();
        loop {
            let error = match store.versions(key, from).await {
                Ok(versions) => {
                    self.refusals.record_right(store, VersionRight::List);
                    return Ok(versions.map_or(ListedVersions::Unversioned, |all| ListedVersions::Versions(all.into())));
                }
                // A name that the store takes for no object: a plain read says so too.
                Err(StoreError::BadKey { .. }) => return Ok(ListedVersions::Unversioned),
                Err(error @ (StoreError::Denied { .. } | StoreError::Refused { .. })) => error,
                Err(error) => return Err(error),
            };
            if let Some(why) = self.is_right_missing(store, key, VersionRight::List, error, pauses.next()).await? {
                return Ok(ListedVersions::Refused(why));
            }
        }
    }

    /// Reads a version of at most `limit` bytes, unless it is known and `is_wanted` does not want its body.
    pub(super) async fn read_version(
        &self,
        store: &Store,
        key: &str,
        version: &LabelVersion,
        is_wanted: bool,
        limit: u64,
        memory: &MemoryShare,
    ) -> Result<VersionRead, StoreError> {
        let Some(id) = &version.id else { return Ok(VersionRead::NotOwn) };
        let (mut charged, mut pauses) = (FIRST_READ_BYTES, REFUSAL_PAUSES.into_iter());
        // Before the lock: no other task waits for this version while this one waits for memory.
        memory.charge(charged).await;
        let mark = self.versions.mark(store, key, id);
        let mut mark = Some(mark.lock_owned().await);
        let known = mark.as_ref().and_then(|mark| **mark);
        if known == Some(true) || (known == Some(false) && !is_wanted) {
            memory.release(charged);
            return Ok(if known == Some(true) { VersionRead::NotOwn } else { VersionRead::Unnamed(None) });
        }
        let read = loop {
            let before = self.refusals.reads();
            let error = match store.get_version(key, id, charged.min(limit)).await {
                Ok(Some(object)) => {
                    self.refusals.record_version_read(store, key, id, object.info.time);
                    let is_named = object.metadata.contains_key(TOKEN_FIELD);
                    if let Some(mut mark) = mark.take() {
                        *mark = Some(is_named);
                    }
                    if is_named {
                        break VersionRead::NotOwn;
                    }
                    if object.body.is_some() || object.info.size > limit {
                        break VersionRead::Unnamed(DescriptorObject::of(ReadObject::Read(object), None, charged));
                    }
                    memory.charge(object.info.size.saturating_sub(charged)).await;
                    charged = object.info.size;
                    continue;
                }
                Ok(None) | Err(StoreError::BadKey { .. }) => break VersionRead::NotOwn,
                Err(error) if is_refusal(&error) => error,
                Err(error) => return Err(error),
            };
            if error.is_retryable() || self.refusals.gives_versions(store) {
                let info = ObjectInfo { key: key.to_owned(), time: version.time, size: 0, etag: None };
                let why = self.judge(store, Some(id), RefusalCause::Store, &info, before, error).await?;
                break VersionRead::Refused(why);
            }
            if let Some(why) = self.is_right_missing(store, key, VersionRight::Read, error, pauses.next()).await? {
                break VersionRead::NoRight(why);
            }
        };
        if !matches!(read, VersionRead::Unnamed(_)) {
            memory.release(charged);
        }
        Ok(read)
    }

    /// Why versions of the store count as ones that this reader may not have, after `error`; `None`: ask again, which is not
    /// before `pause`. An error where the store refuses the object itself too.
    async fn is_right_missing(
        &self,
        store: &Store,
        key: &str,
        right: VersionRight,
        error: StoreError,
        pause: Option<Duration>,
    ) -> Result<Option<MalformedInput>, StoreError> {
        if !self.refusals.is_missing(store, right) {
            // A store that refuses everything says nothing about versions.
            self.newest_time(store, key).await?;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
                return Ok(None);
            }
            self.refusals.record_missing(store, right, &error);
        }
        let refused = right.as_str();
        Ok(Some(MalformedInput { reason: format!("its versions may not be read ({refused} was refused): {error}") }))
    }
}
