//! A store whose credentials or authorities are files: its client is made again when they change.
//!
//! The files are read before a request, at most once per [`CHECK_INTERVAL`], and immediately after a refusal. While one is
//! missing every request fails and names it, so that adding the file repairs the store without a restart.
//!
//! `object_store`'s `CredentialProvider` could replace the credentials of an S3 client alone. Google and Azure need a new
//! client for new credentials, so with a provider for S3 there would be two mechanisms in place of this one.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{
    certificates::TrustedCertificates,
    credentials::StoreCredentials,
    errors::StoreError,
    object_versions::{ListVersions, VersionPage},
    provider_client::ProviderClient,
    sign::{CreateBucketRequest, PutRequest, SignError, SignPut, SignedPut},
};

/// How often the files are read, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What a client is made of that may change.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientFiles {
    pub(crate) credentials: Option<StoreCredentials>,
    pub(crate) certificates: Option<TrustedCertificates>,
}

/// Reads the files.
pub(crate) type FilesReader = Box<dyn Fn() -> Result<ClientFiles, StoreError> + Send + Sync>;

/// Makes a provider's client of the files.
pub(crate) type ClientFactory = Box<dyn Fn(&ClientFiles) -> Result<ProviderClient, StoreError> + Send + Sync>;

/// The store under the files as they are now. Clones share the client.
#[derive(Clone)]
pub(crate) struct ReloadingStore(Arc<ReloadState>);

struct ReloadState {
    url: String,
    read: FilesReader,
    connect: ClientFactory,
    current: Mutex<CurrentClient>,
}

#[derive(Default)]
struct CurrentClient {
    client: Option<(ClientFiles, ProviderClient)>,
    checked: Option<Instant>,
}

impl ReloadingStore {
    pub(crate) fn new(url: &str, read: FilesReader, connect: ClientFactory) -> Self {
        Self(Arc::new(ReloadState { url: url.to_owned(), read, connect, current: Mutex::default() }))
    }

    /// The client of the files as they are now.
    pub(crate) fn client(&self) -> Result<ProviderClient, StoreError> {
        let mut current = self.current();
        let fresh = current.checked.is_some_and(|checked| checked.elapsed() < CHECK_INTERVAL);
        if let Some((_, client)) = current.client.as_ref().filter(|_| fresh) {
            return Ok(client.clone());
        }
        let files = (self.0.read)()?;
        current.checked = Some(Instant::now());
        if let Some((known, client)) = &current.client
            && *known == files
        {
            return Ok(client.clone());
        }
        if current.client.is_some() {
            tracing::info!(store = self.0.url, "credentials or certificates changed; using the new ones from now on");
        }
        let client = (self.0.connect)(&files)?;
        current.client = Some((files, client.clone()));
        Ok(client)
    }

    fn inner(&self) -> Result<Arc<dyn ObjectStore>> {
        Ok(self.client().map_err(as_transport_error)?.store)
    }

    /// Has the files read before the next request where the store refused this one.
    fn checked<T>(&self, answer: Result<T>) -> Result<T> {
        if let Err(object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) = answer
        {
            self.current().checked = None;
        }
        answer
    }

    fn listing(
        &self,
        list: impl FnOnce(Arc<dyn ObjectStore>) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        match self.inner() {
            Ok(inner) => list(inner).map(move |answer| this.checked(answer)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn current(&self) -> MutexGuard<'_, CurrentClient> {
        self.0.current.lock()
    }
}

/// A store's error inside a transport's, from which [`crate::errors::classify`] takes it out again.
fn as_transport_error(error: StoreError) -> object_store::Error {
    object_store::Error::Generic { store: "", source: Box::new(error) }
}

#[async_trait]
impl SignPut for ReloadingStore {
    async fn sign_put(&self, request: &PutRequest<'_>) -> std::result::Result<SignedPut, SignError> {
        let client = self.client().map_err(as_transport_error)?;
        client.signer.sign_put(request).await
    }

    async fn sign_create_bucket(&self) -> std::result::Result<Option<CreateBucketRequest>, SignError> {
        let client = self.client().map_err(as_transport_error)?;
        client.signer.sign_create_bucket().await
    }
}

#[async_trait]
impl ListVersions for ReloadingStore {
    async fn list_versions(&self, path: &Path, after: Option<&str>) -> Result<Option<VersionPage>> {
        let client = self.client().map_err(as_transport_error)?;
        match &client.versions {
            Some(versions) => self.checked(versions.list_versions(path, after).await),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl ObjectStore for ReloadingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.checked(self.inner()?.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.checked(self.inner()?.put_multipart_opts(location, options).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.checked(self.inner()?.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.checked(self.inner()?.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        match self.inner() {
            Ok(inner) => inner.delete_stream(locations).map(move |answer| this.checked(answer)).boxed(),
            // One error per object, as from a store that refuses.
            Err(error) => {
                let why = error.to_string();
                let refused = move |_| Err(object_store::Error::Generic { store: "", source: why.clone().into() });
                locations.map_ok(drop).map(refused).boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(|inner| inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(|inner| inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.checked(self.inner()?.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.checked(self.inner()?.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.checked(self.inner()?.rename_opts(from, to, options).await)
    }
}

impl fmt::Display for ReloadingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReloadingStore({})", self.0.url)
    }
}

impl fmt::Debug for ReloadingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use object_store::{ObjectStoreExt as _, memory::InMemory};

    use super::*;
    use crate::{
        configuration::{ConfiguredValue, StoreConfiguration},
        credentials::CredentialsFolder,
        errors::classify,
        scheme::StoreScheme,
    };

    struct NoSigner;

    #[async_trait]
    impl SignPut for NoSigner {
        async fn sign_put(&self, _: &PutRequest<'_>) -> std::result::Result<SignedPut, SignError> {
            Err(SignError::Unsignable("this test signs nothing".to_owned(), "do not ask it"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_file_is_named_until_it_is_there_and_a_change_connects_again() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Arc::new(AtomicU32::new(0));
        let (memory, counter) = (Arc::new(InMemory::new()), opened.clone());
        let connect: ClientFactory = Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(ProviderClient {
                store: memory.clone(),
                signer: Arc::new(NoSigner),
                versions: None,
                http: reqwest::Client::new(),
                configuration: Arc::new(StoreConfiguration::local(StoreScheme::Memory, &"memory:///".parse().unwrap())),
            })
        });
        let credentials = CredentialsFolder::new(folder.path(), StoreScheme::S3, "s3://b");
        let authorities = folder.path().join("ca.crt");
        let read: FilesReader = Box::new(move || {
            let file = ConfiguredValue::default_of("ca.crt");
            let pem = std::fs::read(&authorities).ok();
            let certificates = pem.map(|pem| TrustedCertificates { file, pem });
            Ok(ClientFiles { credentials: Some(credentials.read()?), certificates })
        });
        let store = ReloadingStore::new("s3://b", read, connect);
        let path = Path::from("a");
        let error = store.put(&path, "1".into()).await.unwrap_err();
        assert!(matches!(classify("u", "k", &error), StoreError::Missing { .. }), "{error}");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("AWS_ACCESS_KEY_ID", "one");
        write("AWS_SECRET_ACCESS_KEY", "secret");
        store.put(&path, "1".into()).await.unwrap();
        store.put(&path, "2".into()).await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 1, "the same credentials stay");
        write("AWS_ACCESS_KEY_ID", "two");
        tokio::time::advance(CHECK_INTERVAL).await;
        store.put(&path, "3".into()).await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 2);
        write("ca.crt", "another authority");
        tokio::time::advance(CHECK_INTERVAL).await;
        store.put(&path, "4".into()).await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 3);
    }
}
