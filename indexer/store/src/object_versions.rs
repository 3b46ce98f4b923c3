//! The versions of one object, where a store keeps them. S3 stores do once versioning is enabled.

use async_trait::async_trait;
use object_store::path::Path;

use crate::time::StoreSecond;

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
