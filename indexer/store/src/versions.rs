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

/// A page of an object's versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionPage {
    /// The newest first.
    pub versions: Vec<ObjectVersion>,
    /// Where the next page begins, which has older ones; `None` where this is the last.
    pub next: Option<String>,
}

/// Lists the versions of the objects of one store.
#[async_trait]
pub trait ListVersions: Send + Sync {
    /// A page of the versions of the object at `path`: the newest, or those behind `after`, which a page before named as its next;
    /// `None` where the store lists none.
    async fn list_versions(&self, path: &Path, after: Option<&str>) -> object_store::Result<Option<VersionPage>>;
}

impl Store {
    /// A page of the versions of `key`: the newest, or those behind `after`, which a page before named as its next; `None` where the
    /// store lists none. Retries.
    ///
    /// To list versions is a right of its own, which reading does not include: [`StoreError::Denied`] without it.
    pub async fn version_page(&self, key: &str, after: Option<&str>) -> Result<Option<VersionPage>, StoreError> {
        let path = self.path(key)?;
        let Some(lister) = self.version_lister() else { return Ok(None) };
        retried(|| async { lister.list_versions(&path, after).await.map_err(|error| self.error(key, &error)) }).await
    }

    /// As [`Store::get`], of the version `id`. Retries.
    pub async fn get_version(&self, key: &str, id: &str, limit: u64) -> Result<Option<StoredObject>, StoreError> {
        let options = GetOptions { version: Some(id.to_owned()), ..GetOptions::default() };
        retried(|| self.get_once_with(key, options.clone(), limit)).await
    }
}
