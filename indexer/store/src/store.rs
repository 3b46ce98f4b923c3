//! The store contract: one adapter over `object_store` for every store that Tidemark runs on.

mod access;
mod bucket;
mod credentials;
mod environment;
mod errors;
mod folder;
mod http;
mod keys;
mod list;
mod open;
mod read;
mod renewed;
mod requests;
mod retry;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path as FilePath,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use object_store::{ObjectStore, memory::InMemory, path::Path};
use url::Url;

pub use self::{
    access::{StoreAccess, StoreSettings},
    environment::StoreEnvironment,
    errors::StoreError,
    requests::RequestCounter,
};
pub(crate) use self::{
    errors::error_chain,
    http::parse_date,
    open::{Kind, decoded},
};
use self::{open::Purpose, renewed::Renewed};
use crate::{StoreSecond, sign::Signing};

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

/// User metadata of an object.
///
/// Names are lower-case ASCII letters and digits (the rules of S3, Google and Azure taken together), values printable
/// ASCII.
pub type UserMetadata = BTreeMap<String, String>;

/// An object's name and attributes. `key` is relative to the store's root, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key below the store's root.
    pub key: String,
    /// Store time, floored to the second.
    pub time: StoreSecond,
    /// Size in bytes.
    pub size: u64,
    /// The store's entity tag, if it gives one.
    pub etag: Option<String>,
}

/// An object with its body.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Name and attributes.
    pub info: ObjectInfo,
    /// User metadata (empty where the store keeps none).
    pub metadata: UserMetadata,
    /// The body; `None` when it is larger than the limit that the caller gave.
    pub body: Option<Bytes>,
    /// The store's clock when it answered, where the store says so (HTTP `Date`).
    pub answered: Option<StoreSecond>,
}

/// A bucket, or a prefix of one, under the store contract.
///
/// Cheap to clone. Every call is a single attempt unless its documentation says that it retries; a retry is bounded to
/// about 16 seconds of pauses.
#[derive(Clone)]
pub struct Store {
    backend: Arc<Backend>,
    url: Url,
    /// The prefix of all keys, without a slash at either end.
    base: String,
}

/// What all prefixes of one bucket share.
pub(crate) struct Backend {
    inner: Arc<dyn ObjectStore>,
    kind: Kind,
    signs: Signs,
    /// Further authorities that sign the server's certificate, in PEM.
    certificates: Option<Vec<u8>>,
    /// The client of signed URLs, made when it is first needed.
    client: OnceLock<reqwest::Client>,
}

/// What signs URLs of a store.
#[derive(Clone)]
enum Signs {
    /// The same as long as the store is open; `None` where there are no URLs.
    Always(Option<Signing>),
    /// What its files of credentials say now.
    Renewed(Renewed),
}

impl Backend {
    /// A transport without URLs.
    fn of(inner: Arc<dyn ObjectStore>, kind: Kind) -> Self {
        Self { inner, kind, signs: Signs::Always(None), certificates: None, client: OnceLock::new() }
    }
}

impl Store {
    /// Whether both are the same store under the same prefix. Two stores in memory may share a URL.
    pub fn is_same(&self, other: &Self) -> bool {
        self.url() == other.url() && self.url().scheme() != "memory"
    }

    /// A store in memory, empty: for tests.
    ///
    /// Its clock is the machine's. The simulation brings its own through [`Store::over`].
    #[expect(clippy::unwrap_used, reason = "a constant URL")]
    pub fn memory() -> Self {
        Self::over(Arc::new(InMemory::new()), Url::parse("memory:///").unwrap())
    }

    /// The store in the folder `path`, which is made if it does not exist. It serves the processes of one machine.
    pub fn folder(path: &FilePath) -> Result<Self, StoreError> {
        open::folder(path, Purpose::Writing)
    }

    /// Opens the store that `url` names: `s3://`, `gs://`, `az://`, `file://` or `memory://`.
    ///
    /// Credentials and endpoints come from the environment, as each store's own tools read them. Nothing is asked of the
    /// store yet.
    pub fn open(url: &Url) -> Result<Self, StoreError> {
        Self::open_with(url, &StoreEnvironment::of_process())
    }

    /// As [`Self::open`], with variables other than the process's.
    pub fn open_with(url: &Url, environment: &StoreEnvironment) -> Result<Self, StoreError> {
        Self::open_as(url, &environment.clone().into())
    }

    /// As [`Self::open`], with settings of its own.
    ///
    /// A credential that is missing in a folder of credentials is an error of the requests, not of opening.
    pub fn open_as(url: &Url, access: &StoreAccess) -> Result<Self, StoreError> {
        open::open(url, access, Purpose::Writing)
    }

    /// As [`Self::open`], for a process that only reads: a folder that does not exist is not made, and requests fail with
    /// [`StoreError::NoBucket`] until somebody makes it.
    pub fn open_read_only(url: &Url) -> Result<Self, StoreError> {
        Self::open_read_only_as(url, &StoreEnvironment::of_process().into())
    }

    /// As [`Self::open_read_only`], with settings of its own.
    pub fn open_read_only_as(url: &Url, access: &StoreAccess) -> Result<Self, StoreError> {
        open::open(url, access, Purpose::Reading)
    }

    /// Wraps `inner`, with keys below the path of `url`: for tests, decorators and the simulation.
    ///
    /// `inner` must make one attempt a call: this adapter is what retries.
    pub fn over(inner: Arc<dyn ObjectStore>, url: Url) -> Self {
        let kind = Kind::of(&url);
        Self::with(Backend::of(inner, kind), url)
    }

    fn with(backend: Backend, url: Url) -> Self {
        let base = backend.kind.base(&url);
        let backend = Arc::new(backend);
        Self { backend, url, base }
    }

    /// The same store with its transport inside a decorator, which sees whole keys, prefix included.
    pub fn decorated(&self, decorate: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        let inner = decorate(self.backend.inner.clone());
        let Backend { kind, signs, certificates, client, .. } = &*self.backend;
        let (signs, certificates, client) = (signs.clone(), certificates.clone(), client.clone());
        let backend = Arc::new(Backend { inner, kind: *kind, signs, certificates, client });
        Self { backend, ..self.clone() }
    }

    /// The part of this store below the folder `prefix`.
    pub fn below(&self, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(prefix.split('/').filter(|part| !part.is_empty()));
        }
        let base = keys::below(&self.base, prefix);
        Self { url, base, ..self.clone() }
    }

    /// The URL that the store was opened with: what messages name.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether objects keep their user metadata. A folder keeps none.
    pub fn supports_user_metadata(&self) -> bool {
        self.backend.kind != Kind::Folder
    }

    /// Whether the store has signed URLs.
    pub(crate) fn has_urls(&self) -> bool {
        match &self.backend.signs {
            Signs::Always(signing) => signing.is_some(),
            Signs::Renewed(_) => true,
        }
    }

    /// What signs URLs of this store now; `None` where there are no URLs.
    pub(crate) fn signing(&self) -> Result<Option<Signing>, StoreError> {
        match &self.backend.signs {
            Signs::Always(signing) => Ok(signing.clone()),
            Signs::Renewed(renewed) => renewed.signing(),
        }
    }

    /// The client for this store's signed URLs, which trusts whom the store's own client trusts.
    pub fn client(&self) -> Result<&reqwest::Client, StoreError> {
        let Backend { certificates, client, .. } = &*self.backend;
        if let Some(client) = client.get() {
            return Ok(client);
        }
        let refused = |error: reqwest::Error| {
            self.unusable(
                format!("no HTTP client can be made: {error}"),
                "check the certificates in the store's settings",
            )
        };
        let pem = certificates.as_deref().unwrap_or_default();
        let trusted = reqwest::Certificate::from_pem_bundle(pem).map_err(refused)?;
        let made = reqwest::Client::builder().tls_certs_merge(trusted).build().map_err(refused)?;
        Ok(client.get_or_init(|| made))
    }

    /// The transport's path of `key`.
    pub(crate) fn path(&self, key: &str) -> Result<Path, StoreError> {
        keys::path(&self.base, key).map_err(|why| StoreError::BadKey {
            url: self.url.to_string(),
            key: key.to_owned(),
            why,
        })
    }

    pub(crate) fn error(&self, key: &str, error: &object_store::Error) -> StoreError {
        errors::classify(self.url.as_str(), key, error)
    }

    pub(crate) fn failed(&self, key: &str, why: String) -> StoreError {
        StoreError::Failed { url: self.url.to_string(), key: key.to_owned(), why }
    }

    pub(crate) fn unusable(&self, why: String, remedy: &str) -> StoreError {
        StoreError::Unusable { url: self.url.to_string(), why, remedy: remedy.to_owned() }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}
