//! Objects whose names have the SHA-256 of their bytes: written once and read back, and compared whenever they are read.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tidemark_store::{Store, StoreSecond};

use crate::{
    error::ArchiveError,
    names::{PartKind, PartName, VersionAttempt},
    tasks::run_cpu_work,
};

/// The largest object that is read where its size is not known: a manifest list.
pub(crate) const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// An object with its bytes, which are those that its name promises.
pub(crate) struct CheckedObject {
    pub(crate) name: PartName,
    pub(crate) bytes: Bytes,
    /// Its store time.
    pub(crate) time: StoreSecond,
}

/// SHA-256 as 64 hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes an object of `attempt`, then reads it whole and compares its bytes.
pub(crate) async fn write_checked(
    store: &Store,
    kind: PartKind,
    attempt: VersionAttempt,
    bytes: Bytes,
) -> Result<CheckedObject, ArchiveError> {
    let name = PartName { kind, attempt, sha256: run_cpu_work(|| sha256(&bytes)) };
    let (key, size) = (name.to_string(), bytes.len() as u64);
    store.put(&key, bytes).await?;
    read_checked(store, &key, Some(size)).await
}

/// The object under `key`: an error unless it has the bytes that its name promises, and `size` of them.
pub(crate) async fn read_checked(store: &Store, key: &str, size: Option<u64>) -> Result<CheckedObject, ArchiveError> {
    let url = store.url_of(key);
    let damaged = |why: String| ArchiveError::Damaged { key: url.clone(), why };
    let name = PartName::parse(key).ok_or_else(|| damaged("no object of an archive has such a name".to_owned()))?;
    let limit = size.unwrap_or(MAX_OBJECT_BYTES);
    let object = store.get(key, limit).await?.ok_or_else(|| ArchiveError::Gone { key: url.clone() })?;
    let found = object.info.size;
    let bytes = object.body.ok_or_else(|| damaged(format!("it has {found} bytes and not {limit}")))?;
    if size.is_some_and(|size| size != found) {
        return Err(damaged(format!("it has {found} bytes and not {limit}")));
    }
    let digest = run_cpu_work(|| sha256(&bytes));
    if digest != name.sha256 {
        return Err(damaged(format!("the SHA-256 of its bytes is {digest} and not that in its name")));
    }
    Ok(CheckedObject { name, bytes, time: object.info.time })
}
