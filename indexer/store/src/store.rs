//! The store: one adapter over `object_store` for every store that Tidemark runs on.
//!
//! The calls are beside it: opening in `open`, and reads, writes and listings in the files of these names.

use std::{fmt, sync::Arc};

use object_store::{ObjectStore, memory::InMemory, path::Path};
use url::Url;

use crate::{
    configuration::StoreConfiguration,
    errors::{StoreError, classify},
    keys,
    location::{EndpointSource, location},
    object_versions::ListVersions,
    reloading_store::ReloadingStore,
    scheme::StoreScheme,
    sign::SignPut,
};

/// A bucket, or a prefix of one, under the store contract.
///
/// Cheap to clone. Every call is a single attempt unless its documentation says that it retries; a retry is bounded to
/// about 16 seconds of pauses.
#[derive(Clone)]
pub struct Store {
    backend: Arc<StoreBackend>,
    url: Url,
    /// The prefix of all keys, without a slash at either end.
    base: String,
}

/// What all prefixes of one bucket share.
pub(crate) struct StoreBackend {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) scheme: StoreScheme,
    /// What lists versions of objects; `None` where the store keeps none.
    pub(crate) versions: Option<Arc<dyn ListVersions>>,
    /// The provider's client, which also signs URLs; `None` where nothing speaks HTTP.
    pub(crate) provider: Option<ReloadingStore>,
    /// The endpoint of the provider, unless it is the provider's own.
    pub(crate) endpoint: Option<EndpointSource>,
}

impl StoreBackend {
    /// A transport without URLs.
    pub(crate) fn without_urls(inner: Arc<dyn ObjectStore>, scheme: StoreScheme) -> Self {
        Self { inner, scheme, versions: None, provider: None, endpoint: None }
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

    /// Wraps `inner`, with keys below the path of `url`: for tests, decorators and the simulation.
    ///
    /// `inner` must make one attempt per call: this adapter retries.
    pub fn over(inner: Arc<dyn ObjectStore>, url: Url) -> Self {
        let scheme = StoreScheme::of(&url).unwrap_or(StoreScheme::Memory);
        Self::with(StoreBackend::without_urls(inner, scheme), url)
    }

    /// As [`Store::over`], over a store that keeps versions of its objects: `get_opts` gives the one that its options name.
    pub fn over_versioned(inner: Arc<dyn ObjectStore>, versions: Arc<dyn ListVersions>, url: Url) -> Self {
        let scheme = StoreScheme::of(&url).unwrap_or(StoreScheme::Memory);
        let backend = StoreBackend { versions: Some(versions), ..StoreBackend::without_urls(inner, scheme) };
        Self::with(backend, url)
    }

    pub(crate) fn with(backend: StoreBackend, url: Url) -> Self {
        let base = backend.scheme.base(&url);
        Self { backend: Arc::new(backend), url, base }
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

    /// The URL of the object under `key`, as messages name it.
    pub fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.url.as_str().trim_end_matches('/'))
    }

    /// Where the store is: its URL in one form, and the endpoint if it is not the provider's own. Two stores of one location are
    /// the same.
    pub fn location(&self) -> String {
        let StoreBackend { scheme, endpoint, .. } = &*self.backend;
        location(*scheme, &self.url, endpoint.as_ref().and_then(|endpoint| endpoint()).as_deref())
    }

    /// Whether objects keep their user metadata. A folder keeps none.
    pub fn supports_user_metadata(&self) -> bool {
        self.backend.scheme != StoreScheme::Folder
    }

    /// The client for this store's signed URLs, which trusts the same authorities as the store's own client. Files are read at
    /// most once per second.
    pub fn client(&self) -> Result<reqwest::Client, StoreError> {
        let Some(provider) = &self.backend.provider else {
            return Err(self.unusable("it has no signed URLs".to_owned(), "write to it without one"));
        };
        Ok(provider.client()?.http)
    }

    /// What the store is reached with, without secrets. An error where a file of credentials or certificates cannot be used.
    pub fn configuration(&self) -> Result<StoreConfiguration, StoreError> {
        let StoreBackend { scheme, provider, .. } = &*self.backend;
        let Some(provider) = provider else { return Ok(StoreConfiguration::local(*scheme, &self.url)) };
        Ok(StoreConfiguration { prefix: self.base.clone(), ..provider.client()?.configuration.as_ref().clone() })
    }

    /// The transport.
    pub(crate) fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.backend.inner
    }

    /// What signs URLs of this store; `None` where there are no URLs.
    pub(crate) fn signer(&self) -> Option<&dyn SignPut> {
        self.backend.provider.as_ref().map(|provider| provider as &dyn SignPut)
    }

    /// What lists versions of this store's objects; `None` where it keeps none.
    pub(crate) fn version_lister(&self) -> Option<&dyn ListVersions> {
        self.backend.versions.as_deref()
    }

    pub(crate) fn speaks_http(&self) -> bool {
        self.backend.scheme.speaks_http()
    }

    /// The prefix of all keys, without a slash at either end.
    pub(crate) fn base(&self) -> &str {
        &self.base
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
        let mut error = classify(self.url.as_str(), key, error);
        // Whose access was refused is what a person looks for.
        if let StoreError::Denied { why, .. } = &mut error
            && let Some(provider) = &self.backend.provider
            && let Some(credentials) =
                provider.client().ok().and_then(|client| client.configuration.credentials.clone())
        {
            *why = format!("{why} (credentials: {credentials})");
        }
        error
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
