//! The store contract: one adapter over `object_store` for every store that Tidemark runs on.

use std::{collections::BTreeMap, fmt, ops::Range, path::Path as FilePath, sync::Arc};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use url::Url;

use crate::Second;

/// What became of a conditional write.
#[derive(Debug)]
#[must_use]
pub enum Create {
    /// The object is ours.
    Committed,
    /// Another object has the key.
    Lost,
    /// The write may or may not have landed, now or later. Nothing may be cleaned up.
    Unknown(StoreError),
}

/// User metadata of an object. Keys are lower case.
pub type Metadata = BTreeMap<String, String>;

/// An object's name and attributes. `key` is relative to the store's root, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key below the store's root.
    pub key: String,
    /// Store time, floored to the second.
    pub time: Second,
    /// Size in bytes.
    pub size: u64,
    /// The store's entity tag, if it gives one.
    pub etag: Option<String>,
}

/// An object with its body.
#[derive(Clone, Debug)]
pub struct Object {
    /// Name and attributes.
    pub info: ObjectInfo,
    /// User metadata (empty where the store keeps none).
    pub metadata: Metadata,
    /// The body; `None` when it is larger than the limit that the caller gave.
    pub body: Option<Bytes>,
    /// The store's clock when it answered, where the store says so (HTTP `Date`).
    pub answered: Option<Second>,
}

/// A bucket, or a prefix of one, under the store contract.
///
/// Cheap to clone. Every call is a single attempt unless its documentation says that it retries.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    url: Url,
}

impl Store {
    /// Opens the store that `url` names: `s3://`, `gs://`, `az://`, `file://` or `memory://`.
    ///
    /// Credentials and endpoints come from the environment, as each store's own tools read them.
    pub fn open(url: &Url) -> Result<Self, StoreError> {
        let _ = url;
        todo!()
    }

    /// Wraps `inner`, with keys below the path of `url`: for tests, decorators and the simulation.
    pub fn over(inner: Arc<dyn ObjectStore>, url: Url) -> Self {
        Self { inner, url }
    }

    /// The URL that the store was opened with: what messages name.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The part of this store below `prefix`.
    pub fn below(&self, prefix: &str) -> Self {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{prefix}", url.path().trim_end_matches('/')));
        Self { inner: Arc::clone(&self.inner), url }
    }

    /// Creates `key` if nothing has it. One attempt; see [`Create`].
    pub async fn create(&self, key: &str, body: Bytes, metadata: &Metadata) -> Create {
        let _ = (key, body, metadata, &self.inner);
        todo!()
    }

    /// Creates `key` and resolves [`Create::Unknown`]: reads the slot back and compares the whole body, which must bear a
    /// nonce; absent means that the same bytes are tried again. Gives up with `Unknown` after a bounded number of tries.
    pub async fn create_resolved(&self, key: &str, body: Bytes, metadata: &Metadata) -> Create {
        let _ = (key, body, metadata);
        todo!()
    }

    /// Writes `key`, replacing what is there. Retries.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let _ = (key, body);
        todo!()
    }

    /// Uploads a file of any size under a key that nobody else writes. Retries; multipart where it is large.
    pub async fn put_file(&self, key: &str, file: &FilePath) -> Result<(), StoreError> {
        let _ = (key, file);
        todo!()
    }

    /// The object, `None` when absent. A body larger than `limit` bytes is not read. Retries.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Object>, StoreError> {
        let _ = (key, limit);
        todo!()
    }

    /// Bytes `range` of the object. Retries.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let _ = (key, range);
        todo!()
    }

    /// The object's attributes, `None` when absent. Retries.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Objects whose key starts with the folder `prefix` (`""` for all), in key order, strictly after key `after`. Lists
    /// lazily, page by page; each page retries. Objects below deeper folders are included.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let _ = (prefix, after);
        todo!()
    }

    /// Deletes the objects; absent ones count as deleted. Retries, and goes on past failures to report the first.
    pub async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let _ = keys;
        todo!()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

/// A store's refusal or failure. Every message names the object.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the call.
    #[error("\"{url}\" refused access to \"{key}\": {why}; check the credentials and the bucket's policy")]
    Denied {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "the store's words"]
        why: String,
    },
    /// The bucket or container does not exist.
    #[error("\"{url}\" does not exist ({why}); create the bucket or correct the URL")]
    NoBucket {
        #[doc = "the store"]
        url: String,
        #[doc = "the store's words"]
        why: String,
    },
    /// The URL or the configuration cannot be used.
    #[error("\"{url}\" cannot be opened: {why}")]
    Unusable {
        #[doc = "the URL"]
        url: String,
        #[doc = "what is wrong and what to do"]
        why: String,
    },
    /// Anything that may pass: time-outs, 5xx, connections that break.
    #[error("\"{url}\" failed on \"{key}\": {why}")]
    Failed {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "the store's words"]
        why: String,
    },
}
