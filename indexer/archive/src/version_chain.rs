//! The chain of the table's versions: version n is `metadata/v{n}.metadata.json`, created by put-if-absent.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use tidemark_catalog::LogId;
use tidemark_store::{Create, Store, StoreError, UserMetadata, last_present};

use crate::{
    checked_object::sha256,
    error::ArchiveError,
    metadata::{MetadataFile, TableMetadata, TableVersion, VersionDraft},
    names::{METADATA_FOLDER, VERSION_HINT, VERSION_PREFIX, version_key, version_of_key},
};

/// The largest metadata file that is read. It names the last hundred snapshots and does not grow with time.
const MAX_METADATA_BYTES: u64 = 16 << 20;

/// The versions of one table. Cheap to clone; clones share what they know of where the chain ends.
#[derive(Clone)]
pub(crate) struct VersionChain {
    store: Store,
    log: LogId,
    /// The number of a version that is known to exist: where a search for the latest one starts. Accesses are `Relaxed`: it only
    /// grows, and guards no other memory.
    known: Arc<AtomicU64>,
}

impl VersionChain {
    /// The chain of the table in `store`.
    pub(crate) fn new(store: Store, log: LogId) -> Self {
        Self { store, log, known: Arc::default() }
    }

    /// The latest version; `None` if there is none yet. Never one before a version that this handle returned earlier.
    ///
    /// The first call lists all versions, and finds a hole among them. Later ones ask for the versions after the last one that is
    /// known.
    pub(crate) async fn latest(&self) -> Result<Option<TableVersion>, ArchiveError> {
        let known = match self.known.load(Ordering::Relaxed) {
            0 => self.listed_end().await?,
            known => known,
        };
        let number = last_present(known, |number| self.exists(number)).await?;
        if number == 0 {
            return Ok(None);
        }
        // A version is never removed.
        self.read(number).await?.map(Some).ok_or_else(|| self.gone(number))
    }

    /// Version `number`; `None` if it is not committed.
    pub(crate) async fn read(&self, number: u64) -> Result<Option<TableVersion>, ArchiveError> {
        let key = version_key(number);
        let Some(object) = self.store.get(&key, MAX_METADATA_BYTES).await? else { return Ok(None) };
        let url = self.store.url_of(&key);
        let Some(body) = object.body else {
            return Err(ArchiveError::Damaged {
                key: url,
                why: format!("it is larger than {MAX_METADATA_BYTES} bytes"),
            });
        };
        let file = MetadataFile { url, number, hash: sha256(&body), body: &body, time: object.info.time };
        let version = file.decode(&self.log)?;
        self.known.fetch_max(number, Ordering::Relaxed);
        Ok(Some(version))
    }

    /// Commits the version that `draft` describes, which follows `before`.
    ///
    /// It is committed if the object is created: one attempt at most wins the slot. An unknown outcome is resolved by reading the slot
    /// and comparing the bytes, which hold the attempt's nonce.
    pub(crate) async fn commit(
        &self,
        before: Option<&TableVersion>,
        metadata: &TableMetadata,
        draft: &VersionDraft,
    ) -> Result<TableVersion, ArchiveError> {
        let number = draft.attempt.version;
        let key = version_key(number);
        let metadata = metadata.next(&self.log, before, draft);
        let body = serde_json::to_vec(&metadata).map_err(|error| ArchiveError::codec("write metadata", &error))?;
        let body = Bytes::from(body);
        match self.create(&key, body).await {
            Create::Committed => {}
            Create::Lost => return Err(ArchiveError::Overtaken { key: self.store.url_of(&key) }),
            // A refusal is an answer: nothing of ours is on its way.
            Create::Unknown(error) if !error.is_retryable() => return Err(error.into()),
            Create::Unknown(error) => {
                return Err(ArchiveError::Unknown { key: self.store.url_of(&key), why: error.to_string() });
            }
        }
        // It may be late, and lost: engines that are given a version do without.
        if let Err(error) = self.store.put(VERSION_HINT, number.to_string().into()).await {
            tracing::warn!(%error, "the hint at the archive's latest version was not written; engines that read by the table's path see an earlier version until the next one");
        }
        self.read(number).await?.ok_or_else(|| self.gone(number))
    }

    async fn create(&self, key: &str, body: Bytes) -> Create {
        match self.store.create(key, body.clone(), &UserMetadata::new()).await {
            // Its bytes show whose the slot is: a create that reached the store twice is answered as lost although it landed.
            Create::Lost => self.store.create_resolved(key, body, &UserMetadata::new()).await,
            Create::Unknown(error) if error.is_retryable() => {
                self.store.create_resolved(key, body, &UserMetadata::new()).await
            }
            answer => answer,
        }
    }

    /// The number of the last version that a listing shows; 0 if it shows none.
    async fn listed_end(&self) -> Result<u64, ArchiveError> {
        let numbers = self.store.list(METADATA_FOLDER, Some(VERSION_PREFIX));
        let number = |object: tidemark_store::ObjectInfo| async move { Ok(version_of_key(&object.key)) };
        let numbers: BTreeSet<u64> = numbers.try_filter_map(number).try_collect().await?;
        for (expected, number) in (1..).zip(&numbers) {
            // A listing may miss what is created while it goes on.
            if expected != *number && !self.exists(expected).await? {
                return Err(self.gone(expected));
            } else if expected != *number {
                break;
            }
        }
        Ok(numbers.last().copied().unwrap_or(0))
    }

    async fn exists(&self, number: u64) -> Result<bool, StoreError> {
        Ok(self.store.head(&version_key(number)).await?.is_some())
    }

    fn gone(&self, number: u64) -> ArchiveError {
        ArchiveError::Gone { key: self.store.url_of(&version_key(number)) }
    }
}
