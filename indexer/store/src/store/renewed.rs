//! A store whose credentials are files: opened anew when they have changed.
//!
//! The files are looked at before a request, at most once a [`PERIOD`], and at once after a refusal. While they are not
//! to be had every request fails with what is missing, so that adding it mends the store without a restart.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use tokio::time::Instant;

use super::{
    StoreError,
    credentials::{Credentials, Folder},
};
use crate::sign::Signing;

/// How often the files are looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);

/// A transport with what signs for it.
pub(super) type Opened = (Arc<dyn ObjectStore>, Option<Signing>);
/// Opens the transport with credentials.
pub(super) type Opener = Box<dyn Fn(&Credentials) -> Result<Opened, StoreError> + Send + Sync>;

/// The store in `folder`'s present credentials. Clones share it.
#[derive(Clone)]
pub(super) struct Renewed(Arc<Shared>);

struct Shared {
    url: String,
    folder: Folder,
    open: Opener,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    opened: Option<(Credentials, Opened)>,
    looked: Option<Instant>,
}

impl Renewed {
    pub(super) fn new(url: &str, folder: Folder, open: Opener) -> Self {
        Self(Arc::new(Shared { url: url.to_owned(), folder, open, present: Mutex::default() }))
    }

    /// The transport with the credentials that the folder holds now.
    fn now(&self) -> Result<Opened, StoreError> {
        let mut present = self.present();
        let fresh = present.looked.is_some_and(|looked| looked.elapsed() < PERIOD);
        if let Some((_, opened)) = present.opened.as_ref().filter(|_| fresh) {
            return Ok(opened.clone());
        }
        let credentials = self.0.folder.read()?;
        present.looked = Some(Instant::now());
        if let Some((known, opened)) = &present.opened
            && *known == credentials
        {
            return Ok(opened.clone());
        }
        if present.opened.is_some() {
            tracing::info!(store = self.0.url, "its credentials have changed and are used from now on");
        }
        let opened = (self.0.open)(&credentials)?;
        present.opened = Some((credentials, opened.clone()));
        Ok(opened)
    }

    /// What signs with the present credentials.
    pub(super) fn signing(&self) -> Result<Option<Signing>, StoreError> {
        Ok(self.now()?.1)
    }

    fn inner(&self) -> Result<Arc<dyn ObjectStore>> {
        let opened = self.now().map_err(|error| object_store::Error::Generic { store: "", source: Box::new(error) })?;
        Ok(opened.0)
    }

    /// Looks at the files before the next request where the store refused this one.
    fn seen<T>(&self, answer: Result<T>) -> Result<T> {
        if let Err(object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) = answer
        {
            self.present().looked = None;
        }
        answer
    }

    fn listing(
        &self,
        list: impl FnOnce(Arc<dyn ObjectStore>) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        match self.inner() {
            Ok(inner) => list(inner).map(move |answer| this.seen(answer)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.0.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStore for Renewed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.seen(self.inner()?.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.seen(self.inner()?.put_multipart_opts(location, options).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.seen(self.inner()?.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.seen(self.inner()?.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        match self.inner() {
            Ok(inner) => inner.delete_stream(locations).map(move |answer| this.seen(answer)).boxed(),
            // Each is answered, as a store that refuses would.
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
        self.seen(self.inner()?.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.seen(self.inner()?.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.seen(self.inner()?.rename_opts(from, to, options).await)
    }
}

impl fmt::Display for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewed({})", self.0.url)
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use object_store::{ObjectStoreExt as _, memory::InMemory};

    use super::*;
    use crate::store::open::Kind;

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_told_until_it_is_there_and_a_change_opens_anew() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Arc::new(AtomicU32::new(0));
        let (memory, counter) = (Arc::new(InMemory::new()), opened.clone());
        let open: Opener = Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok((memory.clone() as Arc<dyn ObjectStore>, None))
        });
        let store = Renewed::new("s3://b", Folder::new(folder.path(), Kind::S3, "s3://b"), open);
        let path = Path::from("a");
        let error = store.put(&path, "1".into()).await.unwrap_err();
        assert!(matches!(super::super::errors::classify("u", "k", &error), StoreError::Missing { .. }), "{error}");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("AWS_ACCESS_KEY_ID", "one");
        write("AWS_SECRET_ACCESS_KEY", "secret");
        store.put(&path, "1".into()).await.unwrap();
        store.put(&path, "2".into()).await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 1, "the same credentials stay");
        write("AWS_ACCESS_KEY_ID", "two");
        tokio::time::advance(PERIOD).await;
        store.put(&path, "3".into()).await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 2);
    }
}
