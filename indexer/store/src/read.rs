//! Reading one object.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{GetOptions, GetResult, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};

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

    /// As [`Store::get`], of the version `id`. Retries.
    pub async fn get_version(&self, key: &str, id: &str, limit: u64) -> Result<Option<StoredObject>, StoreError> {
        let options = GetOptions { version: Some(id.to_owned()), ..GetOptions::default() };
        retried(|| self.get_once_with(key, options.clone(), limit)).await
    }

    /// The object without its body, and the body's SHA-256 as 64 hexadecimal digits. The body is read piece by piece and
    /// none of it is kept; one larger than `limit` bytes is not read and has no digest. `None` when absent. Retries.
    pub async fn get_digest(
        &self,
        key: &str,
        limit: u64,
    ) -> Result<Option<(StoredObject, Option<String>)>, StoreError> {
        retried(|| self.get_digest_once(key, limit)).await
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
        self.get_once_with(key, GetOptions::default(), limit).await
    }

    /// One attempt of a GET with `options`.
    async fn get_once_with(
        &self,
        key: &str,
        options: GetOptions,
        limit: u64,
    ) -> Result<Option<StoredObject>, StoreError> {
        let Some((found, mut object)) = self.open_once(key, options).await? else {
            return Ok(None);
        };
        if object.info.size <= limit {
            object.body = Some(self.body(key, found).await?);
        }
        Ok(Some(object))
    }

    async fn get_digest_once(
        &self,
        key: &str,
        limit: u64,
    ) -> Result<Option<(StoredObject, Option<String>)>, StoreError> {
        let Some((found, object)) = self.open_once(key, GetOptions::default()).await? else {
            return Ok(None);
        };
        let digest = if object.info.size <= limit { Some(self.digest(key, found).await?) } else { None };
        Ok(Some((object, digest)))
    }

    /// The answer to a GET, whose body is not read yet, and what its head says of the object.
    async fn open_once(&self, key: &str, options: GetOptions) -> Result<Option<(GetResult, StoredObject)>, StoreError> {
        let path = self.path(key)?;
        let read = self.inner().get_opts(&path, options).await;
        let Some(found) = self.present(key, read)? else {
            return Ok(None);
        };
        let info = ObjectInfo::new(key.to_owned(), &found.meta);
        let metadata = user_metadata(&found.attributes);
        let answered = found.extensions.get::<AnswerTime>().map(|answered| answered.0);
        Ok(Some((found, StoredObject { info, metadata, body: None, answered })))
    }

    /// The whole body of `found`, else an error.
    async fn body(&self, key: &str, found: GetResult) -> Result<Bytes, StoreError> {
        let expected = found.meta.size;
        let body = found.bytes().await.map_err(|error| self.error(key, &error))?;
        self.check_length(key, expected, body.len() as u64)?;
        Ok(body)
    }

    /// The SHA-256 of the whole body of `found`, else an error.
    async fn digest(&self, key: &str, found: GetResult) -> Result<String, StoreError> {
        let expected = found.meta.size;
        let (mut hasher, mut arrived, mut pieces) = (Sha256::new(), 0, found.into_stream());
        while let Some(piece) = pieces.try_next().await.map_err(|error| self.error(key, &error))? {
            hasher.update(&piece);
            arrived += piece.len() as u64;
        }
        self.check_length(key, expected, arrived)?;
        Ok(hex::encode(hasher.finalize()))
    }

    fn check_length(&self, key: &str, expected: u64, arrived: u64) -> Result<(), StoreError> {
        if arrived == expected {
            Ok(())
        } else {
            Err(self.failed(key, format!("{arrived} of {expected} bytes arrived")))
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
