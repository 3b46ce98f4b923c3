//! Reading one object.

use std::ops::Range;

use bytes::Bytes;
use object_store::{Attribute, Attributes, GetOptions, GetResult, ObjectMeta, ObjectStoreExt as _};

use super::{ObjectInfo, Store, StoreError, StoredObject, UserMetadata, http::Answered, retry::retried};
use crate::StoreSecond;

impl Store {
    /// The object, `None` when absent. A body larger than `limit` bytes is not read. Retries.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<StoredObject>, StoreError> {
        retried(|| self.get_once(key, limit)).await
    }

    /// Bytes `range` of the object. Retries.
    ///
    /// An absent object is [`StoreError::Absent`].
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        retried(|| async {
            let read = self.backend.inner.get_range(&path, range.clone()).await;
            read.map_err(|error| self.error(key, &error))
        })
        .await
    }

    /// The object's attributes, `None` when absent. Retries.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        retried(|| self.head_once(key)).await
    }

    async fn get_once(&self, key: &str, limit: u64) -> Result<Option<StoredObject>, StoreError> {
        let path = self.path(key)?;
        let read = self.backend.inner.get_opts(&path, GetOptions::default()).await;
        let Some(found) = self.present(key, read)? else {
            return Ok(None);
        };
        let info = info(key.to_owned(), &found.meta);
        let metadata = metadata(&found.attributes);
        let answered = found.extensions.get::<Answered>().map(|answered| answered.0);
        let body = if found.meta.size > limit { None } else { Some(self.body(key, found).await?) };
        Ok(Some(StoredObject { info, metadata, body, answered }))
    }

    /// The body of `found`, whole or not at all.
    async fn body(&self, key: &str, found: GetResult) -> Result<Bytes, StoreError> {
        let expected = found.meta.size;
        let body = found.bytes().await.map_err(|error| self.error(key, &error))?;
        if body.len() as u64 == expected {
            Ok(body)
        } else {
            Err(self.failed(key, format!("{} of {expected} bytes came", body.len())))
        }
    }

    async fn head_once(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.path(key)?;
        let read = self.backend.inner.head(&path).await;
        match self.present(key, read)? {
            Some(meta) => Ok(Some(info(key.to_owned(), &meta))),
            // The answer to a HEAD has no body, so a bucket that is gone looks like an object that is absent.
            None if self.backend.kind.speaks_http() => Ok(self.get_once(key, 0).await?.map(|object| object.info)),
            None => Ok(None),
        }
    }

    /// Tells an absent object from a refusal.
    fn present<T>(&self, key: &str, read: object_store::Result<T>) -> Result<Option<T>, StoreError> {
        match read.map_err(|error| self.error(key, &error)) {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An object's attributes under `key`, its time floored to the second.
pub(crate) fn info(key: String, meta: &ObjectMeta) -> ObjectInfo {
    ObjectInfo {
        key,
        time: StoreSecond::from_unix(u64::try_from(meta.last_modified.timestamp()).unwrap_or(0)),
        size: meta.size,
        etag: meta.e_tag.clone(),
    }
}

fn metadata(attributes: &Attributes) -> UserMetadata {
    let user = attributes.iter().filter_map(|(name, value)| match name {
        Attribute::Metadata(name) => Some((name.to_ascii_lowercase(), value.to_string())),
        _ => None,
    });
    user.collect()
}
