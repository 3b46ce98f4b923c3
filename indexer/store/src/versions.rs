//! The versions of one object, where a store keeps them. S3 stores do once versioning is enabled.

use async_trait::async_trait;
use object_store::{GetOptions, path::Path};

use crate::{errors::StoreError, object::StoredObject, retry::retried, store::Store, time::StoreSecond};

/// One version of an object; not the mark of its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The store's name of the version; `None` for one that was written while the store kept none: it replaced others of its kind.
    pub id: Option<String>,
    /// Store time, floored to the second.
    pub time: StoreSecond,
}

/// Lists the versions of the objects of one store.
#[async_trait]
pub trait ListVersions: Send + Sync {
    /// The versions of the object at `path`, the newest first; `None` where the store lists none. Those before `from` may be left
    /// out, but for one: an object that exists has a version.
    async fn list_versions(&self, path: &Path, from: StoreSecond) -> object_store::Result<Option<Vec<ObjectVersion>>>;
}

impl Store {
    /// The versions of `key`, the oldest first; `None` where the store lists none. Those before `from` may be left out, but for
    /// one. Retries.
    ///
    /// To list versions is a right of its own, which reading does not include: [`StoreError::Denied`] without it.
    pub async fn versions(&self, key: &str, from: StoreSecond) -> Result<Option<Vec<ObjectVersion>>, StoreError> {
        let path = self.path(key)?;
        let Some(lister) = self.version_lister() else { return Ok(None) };
        let list = || async { lister.list_versions(&path, from).await.map_err(|error| self.error(key, &error)) };
        let mut versions = retried(list).await?;
        if let Some(newest_first) = &mut versions {
            newest_first.reverse();
        }
        Ok(versions)
    }

    /// As [`Store::get`], of the version `id`. Retries.
    pub async fn get_version(&self, key: &str, id: &str, limit: u64) -> Result<Option<StoredObject>, StoreError> {
        let options = GetOptions { version: Some(id.to_owned()), ..GetOptions::default() };
        retried(|| self.get_once_with(key, options.clone(), limit)).await
    }
}
