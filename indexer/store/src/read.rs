//! Reading one object.

use std::ops::Range;

use bytes::Bytes;
use object_store::{GetOptions, GetResult, ObjectStoreExt as _};

use crate::{
    errors::StoreError,
    http::AnswerTime,
    object::{ObjectInfo, StoredObject, user_metadata},
    retry::retried,
    store::Store,
};

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
            let read = self.inner().get_range(&path, range.clone()).await;
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
        let read = self.inner().get_opts(&path, GetOptions::default()).await;
        let Some(found) = self.present(key, read)? else {
            return Ok(None);
        };
        let info = ObjectInfo::new(key.to_owned(), &found.meta);
        let metadata = user_metadata(&found.attributes);
        let answered = found.extensions.get::<AnswerTime>().map(|answered| answered.0);
        let body = if found.meta.size > limit { None } else { Some(self.body(key, found).await?) };
        Ok(Some(StoredObject { info, metadata, body, answered }))
    }

    /// The whole body of `found`, else an error.
    async fn body(&self, key: &str, found: GetResult) -> Result<Bytes, StoreError> {
        let expected = found.meta.size;
        let body = found.bytes().await.map_err(|error| self.error(key, &error))?;
        if body.len() as u64 == expected {
            Ok(body)
        } else {
            Err(self.failed(key, format!("{} of {expected} bytes arrived", body.len())))
        }
    }

    async fn head_once(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.path(key)?;
        let read = self.inner().head(&path).await;
        match self.present(key, read)? {
            Some(meta) => Ok(Some(ObjectInfo::new(key.to_owned(), &meta))),
            // The answer to a HEAD has no body, so a bucket that is gone looks like an object that is absent.
            None if self.speaks_http() => Ok(self.get_once(key, 0).await?.map(|object| object.info)),
            None => Ok(None),
        }
    }

    /// `None` for an absent object, an error for everything else.
    fn present<T>(&self, key: &str, read: object_store::Result<T>) -> Result<Option<T>, StoreError> {
        match read.map_err(|error| self.error(key, &error)) {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
