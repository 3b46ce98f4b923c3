//! Objects that no version names and none ever will.
//!
//! The objects of an attempt bear the number of the version that it wants to commit, and a nonce. Once another attempt has committed that
//! version, the slot is taken for good: nothing can name them any more, whoever wrote them and however long it was paused. Before that they
//! may be those of an attempt that goes on.

use std::{collections::BTreeMap, sync::Arc};

use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tidemark_store::{ObjectInfo, Store, StoreSecond};

use crate::{
    error::ArchiveError,
    location::key_of_path,
    metadata::TableVersion,
    names::{DATA_FOLDER, METADATA_FOLDER, PartName, VersionAttempt},
    table_files::read_manifest_list,
    version_chain::VersionChain,
};

/// How many objects are deleted at once.
const DELETE_CHUNK: usize = 1000;

/// Leaks that were deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeletedLeaks {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Deletes the leaks that were written before `before`. One that cannot be deleted keeps no other one; the first such error is returned at
/// the end.
pub(crate) async fn delete_leaks(
    store: &Store,
    chain: VersionChain,
    latest: TableVersion,
    before: StoreSecond,
) -> Result<DeletedLeaks, ArchiveError> {
    let old = leaked_objects(store.clone(), chain, latest).try_filter(|leak| std::future::ready(leak.time < before));
    let mut chunks = old.try_chunks(DELETE_CHUNK);
    let (mut deleted, mut failure) = (DeletedLeaks::default(), None);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| error.1)?;
        let keys: Vec<_> = chunk.iter().map(|leak| leak.key.clone()).collect();
        match store.delete(&keys).await {
            Ok(()) => {
                deleted.objects += chunk.len() as u64;
                deleted.bytes += chunk.iter().map(|leak| leak.size).sum::<u64>();
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(deleted), |error| Err(error.into()))
}

/// The objects of attempts whose version, up to `latest`, another attempt has committed.
pub(crate) fn leaked_objects(
    store: Store,
    chain: VersionChain,
    latest: TableVersion,
) -> BoxStream<'static, Result<ObjectInfo, ArchiveError>> {
    // Listed after the versions are known: what is listed is compared with all of them.
    let attempts =
        stream::once(async move { CommittedAttempts::read(&store, chain, &latest).await.map(|found| (store, found)) });
    let leaks = attempts.map_ok(|(store, attempts)| {
        let attempts = Arc::new(attempts);
        let objects =
            store.list(DATA_FOLDER, None).chain(store.list(METADATA_FOLDER, None)).map_err(ArchiveError::from);
        objects.try_filter_map(move |object| {
            let attempts = Arc::clone(&attempts);
            async move { Ok(attempts.is_leak(&object.key).await?.then_some(object)) }
        })
    });
    leaks.try_flatten().boxed()
}

/// Which attempt has committed each version.
struct CommittedAttempts {
    chain: VersionChain,
    latest: u64,
    /// The nonces of the versions that have rows, by version.
    nonces: BTreeMap<u64, String>,
}

impl CommittedAttempts {
    async fn read(store: &Store, chain: VersionChain, latest: &TableVersion) -> Result<Self, ArchiveError> {
        let by = store.url_of(&latest.key());
        let mut nonces = BTreeMap::from([(latest.number, latest.attempt.nonce.clone())]);
        for manifest in read_manifest_list(store, latest).await? {
            let key = key_of_path(&latest.location, &manifest.path, &by)?;
            let name = PartName::parse(key).ok_or_else(|| ArchiveError::Damaged {
                key: by.clone(),
                why: format!("its manifest list names \"{key}\", which is no manifest"),
            })?;
            nonces.insert(manifest.version, name.attempt.nonce);
        }
        Ok(Self { chain, latest: latest.number, nonces })
    }

    /// Whether nothing can ever name the object.
    async fn is_leak(&self, key: &str) -> Result<bool, ArchiveError> {
        let Some(PartName { attempt: VersionAttempt { version, nonce }, .. }) = PartName::parse(key) else {
            return Ok(false);
        };
        if version == 0 || version > self.latest {
            return Ok(false);
        }
        if let Some(committed) = self.nonces.get(&version) {
            return Ok(*committed != nonce);
        }
        // A version without rows: only its own object tells. The list that it names stays, whatever else that object says.
        let Some(committed) = self.chain.read(version).await? else { return Ok(false) };
        let is_its_list = committed.manifest_list().is_some_and(|path| path.ends_with(key));
        Ok(committed.attempt.nonce != nonce && !is_its_list)
    }
}
